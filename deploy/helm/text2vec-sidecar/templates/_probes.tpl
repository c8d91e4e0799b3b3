{{- /* What a probe asks: `path` is live or ready. gRPC health is about readiness, so a live probe asks for HTTP there too. */ -}}
{{- define "t2v.ask" -}}
{{- $values := .root.Values -}}
{{- if and (eq $values.probes.type "grpc") $values.tls.secret -}}
{{- fail "probes.type: the kubelet has no TLS for gRPC probes; take http or exec" -}}
{{- end -}}
{{- if and (eq $values.probes.type "grpc") (eq .path "ready") -}}
grpc:
  port: {{ $values.service.port }}
{{- else if and (eq $values.probes.type "exec") (eq .path "ready") -}}
exec:
  command: [/text2vec-sidecar, healthcheck]
{{- else -}}
httpGet:
  path: /.well-known/{{ .path }}
  port: http
  scheme: {{ ternary "HTTPS" "HTTP" (ne $values.tls.secret "") }}
{{- end -}}
{{- end -}}
