{{- define "t2v.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "t2v.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "t2v.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "t2v.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "t2v.selector" -}}
app.kubernetes.io/name: {{ include "t2v.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "t2v.labels" -}}
{{ include "t2v.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "t2v.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{ .Values.image.repository }}:{{ if .Values.gpu.enabled }}{{ default (printf "%s-cuda" $tag) .Values.gpu.tag }}{{ else }}{{ $tag }}{{ end }}
{{- end -}}
{{- end -}}

{{- define "t2v.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "t2v.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "t2v.resources" -}}
{{- if .Values.gpu.enabled -}}
{{- $cards := dict "limits" (dict .Values.gpu.resource .Values.gpu.count) -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.resources) $cards) -}}
{{- else -}}
{{- toYaml .Values.resources -}}
{{- end -}}
{{- end -}}

{{- define "t2v.cards" -}}
cuda:{{ join "," (untilStep 0 (int .Values.gpu.count) 1) }}
{{- end -}}
