package check

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	dataquery "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	corev1 "k8s.io/api/core/v1"

	"helm.sh/helm/v3/pkg/chartutil"
)

const monitoringDir = chartDir + "/monitoring"

// The files of alerts, read by Prometheus' own rules for such files.
func alerts(t *testing.T, names ...string) map[string]rulefmt.Rule {
	t.Helper()
	found := map[string]rulefmt.Rule{}
	for _, name := range names {
		groups, errs := rulefmt.ParseFile(filepath.Join(monitoringDir, name), false, model.LegacyValidation, promql(), slog.New(slog.DiscardHandler))
		if len(errs) > 0 {
			t.Fatalf("%s: %v", name, errs)
		}
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				if _, twice := found[rule.Alert]; twice || rule.Alert == "" {
					t.Errorf("%s: %q", name, rule.Alert)
				}
				found[rule.Alert] = rule
			}
		}
	}
	return found
}

func promql() parser.Parser {
	return parser.NewParser(parser.Options{})
}

// The chart replaces what stands at the end, so it has to be the threshold, and nothing in the texts may repeat it.
var threshold = regexp.MustCompile(`(?:[><]|==) ([0-9.]+)$`)

func TestEveryAlertSaysWhatToDoAndWhere(t *testing.T) {
	page, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range alerts(t, "rules.yaml", "rules-kubernetes.yaml") {
		if !threshold.MatchString(strings.TrimSpace(rule.Expr)) {
			t.Errorf("%s: no threshold at the end of %s", name, rule.Expr)
		}
		for _, annotation := range []string{"summary", "description", "runbook", "docs"} {
			if rule.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", name, annotation)
			}
		}
		if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" && severity != "info" {
			t.Errorf("%s: severity %q", name, severity)
		}
		file, anchor, _ := strings.Cut(rule.Annotations["docs"], "#")
		text, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		heading := regexp.MustCompile(`(?mi)^#+ ` + strings.ReplaceAll(regexp.QuoteMeta(anchor), "-", "[ ,-]+") + `$`)
		if anchor != "" && !heading.Match(text) {
			t.Errorf("%s: %s has no heading for #%s", name, file, anchor)
		}
		if !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/observability.md does not list %s", name)
		}
	}
	if listed := strings.Count(string(page), "| `Text2vec"); listed != len(alerts(t, "rules.yaml", "rules-kubernetes.yaml")) {
		t.Errorf("docs/observability.md lists %d alerts", listed)
	}
}

func rules(t *testing.T, manifests string) map[string]monitoringv1.Rule {
	t.Helper()
	found := map[string]monitoringv1.Rule{}
	for _, object := range decode[monitoringv1.PrometheusRule](t, manifests, "PrometheusRule") {
		for _, group := range object.Spec.Groups {
			for _, rule := range group.Rules {
				found[rule.Alert] = rule
			}
		}
	}
	return found
}

func renderText(t *testing.T, text string) string {
	t.Helper()
	values, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := render(chartDir, values)
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

func TestTheChartsAlertsAreThoseOfTheFileForItsOwnPods(t *testing.T) {
	rendered := rules(t, renderText(t, "monitoring: {prometheusRule: {enabled: true, kubernetesMetrics: true}}"))
	file := alerts(t, "rules.yaml", "rules-kubernetes.yaml")
	if len(rendered) != len(file) {
		t.Errorf("%d alerts of %d", len(rendered), len(file))
	}
	own := strings.NewReplacer(
		`job="text2vec-sidecar"`, `job="text2vec-sidecar", namespace="vectors", service="t2v-text2vec-sidecar"`,
		`pod=~".*text2vec-sidecar.*"`, `namespace="vectors", pod=~"t2v-text2vec-sidecar-[a-z0-9]+-[a-z0-9]+"`)
	for name, rule := range rendered {
		if wanted := own.Replace(strings.TrimSpace(file[name].Expr)); rule.Expr.StrVal != wanted {
			t.Errorf("%s: %s, not %s", name, rule.Expr.StrVal, wanted)
		}
		if _, err := promql().ParseExpr(rule.Expr.StrVal); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(rule.Expr.StrVal, `namespace="vectors"`) {
			t.Errorf("%s is about other releases, too", name)
		}
		if (rule.For == nil) != (file[name].For == 0) || rule.For != nil && string(*rule.For) != file[name].For.String() {
			t.Errorf("%s: for %v", name, rule.For)
		}
		if rule.Annotations["runbook"] != file[name].Annotations["runbook"] {
			t.Errorf("%s: %s", name, rule.Annotations["runbook"])
		}
	}
	if plain := rules(t, renderText(t, "monitoring: {prometheusRule: {enabled: true}}")); plain["Text2vecMemory"].Alert != "" {
		t.Error("alerts on metrics of Kubernetes are there unasked")
	}
	chosen := rules(t, renderText(t, `monitoring: {prometheusRule: {enabled: true, selector: 'job="mine"'}}`))
	if expr := chosen["Text2vecDown"].Expr.StrVal; expr != `up{job="mine"} == 0` {
		t.Error(expr)
	}
	set := rules(t, renderSet(t, "monitored"))
	if _, there := set["Text2vecTruncated"]; there {
		t.Error("an alert that is off is there")
	}
	latency := set["Text2vecLatency"]
	if !strings.HasSuffix(latency.Expr.StrVal, " > 2.5") || *latency.For != "1m" || latency.Labels["severity"] != "critical" {
		t.Errorf("%v", latency)
	}
}

func TestPrometheusGetsIn(t *testing.T) {
	monitor := func(manifests string) monitoringv1.Endpoint {
		found := decode[monitoringv1.ServiceMonitor](t, manifests, "ServiceMonitor")
		if len(found) != 1 || len(found[0].Spec.Endpoints) != 1 {
			t.Fatalf("%v", found)
		}
		services := 0
		for _, service := range decode[corev1.Service](t, manifests, "Service") {
			for label, value := range found[0].Spec.Selector.MatchLabels {
				if service.Labels[label] != value {
					t.Errorf("%s is not selected", service.Name)
				}
			}
			if service.Spec.Ports[0].Name == found[0].Spec.Endpoints[0].Port {
				services++
			}
			if service.Labels[found[0].Spec.JobLabel] != "text2vec-sidecar" {
				t.Errorf("the job is %q", service.Labels[found[0].Spec.JobLabel])
			}
		}
		if services != 1 {
			t.Errorf("each pod is scraped %d times", services)
		}
		return found[0].Spec.Endpoints[0]
	}
	plain := monitor(renderText(t, "monitoring: {serviceMonitor: {enabled: true}}"))
	if plain.Scheme.String() != "http" || plain.Authorization != nil || plain.TLSConfig != nil || plain.Interval != "30s" {
		t.Errorf("%v", plain)
	}
	manifests := renderSet(t, "monitored")
	guarded := monitor(manifests)
	if guarded.Scheme.String() != "https" || guarded.Authorization.Credentials.Name != "t2v-scrape" ||
		*guarded.TLSConfig.ServerName != "t2v-text2vec-sidecar.vectors.svc" || guarded.TLSConfig.CA.Secret.Name != "t2v-tls" {
		t.Errorf("%v", guarded)
	}
	if variable(deployment(t, manifests).Spec.Template.Spec.Containers[0], "T2V_AUTH_METRICS") != "true" {
		t.Error("/metrics is open")
	}
	certified := monitor(renderText(t, `{tls: {secret: a, clientCASecret: b}, auth: {metrics: true},
		monitoring: {serviceMonitor: {enabled: true, tls: {clientSecret: c, insecureSkipVerify: true}}}}`))
	if certified.TLSConfig.Cert.Secret.Name != "c" || certified.TLSConfig.KeySecret.Name != "c" || certified.TLSConfig.CA.Secret != nil {
		t.Errorf("%v", certified.TLSConfig)
	}
	for text, wanted := range map[string]string{
		"{auth: {metrics: true}}": "auth.metrics",
		"{auth: {secret: a, metrics: true}, monitoring: {serviceMonitor: {enabled: true}}}":                           "token.secret",
		"{tls: {secret: a, clientCASecret: b}, auth: {metrics: true}, monitoring: {serviceMonitor: {enabled: true}}}": "clientSecret",
		"monitoring: {prometheusRule: {enabled: true, alerts: {Text2vecDwon: {enabled: false}}}}":                     "no alert Text2vecDwon",
		"monitoring: {prometheusRule: {enabled: true, alerts: {Text2vecDown: {treshold: 1}}}}":                        "treshold",
		"monitoring: {serviceMonitor: {enabled: true, interval: often}}":                                              "interval",
	} {
		values, err := chartutil.ReadValues([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := render(chartDir, values); err == nil || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMonitoringIsOffUnlessAskedFor(t *testing.T) {
	for name := range valueSets(t) {
		manifests := renderSet(t, name)
		if made := strings.Contains(manifests, "monitoring.coreos.com") || strings.Contains(manifests, "kind: ConfigMap"); made != (name == "monitored") {
			t.Errorf("%s: %v", name, made)
		}
	}
}

// Grafana's own types, which refuse what they do not know.
func TestTheDashboardIsOneOfGrafanas(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(monitoringDir, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, panels := range []func() (kind string){
		func() string { cog.NewRuntime().RegisterPanelcfgVariant(heatmap.VariantConfig()); return "heatmap" },
		func() string { cog.NewRuntime().RegisterPanelcfgVariant(stat.VariantConfig()); return "stat" },
		func() string { cog.NewRuntime().RegisterPanelcfgVariant(table.VariantConfig()); return "table" },
		func() string {
			cog.NewRuntime().RegisterPanelcfgVariant(timeseries.VariantConfig())
			return "timeseries"
		},
	} {
		if kind := panels(); !bytes.Contains(text, []byte(`"type": "`+kind+`"`)) {
			t.Errorf("no panel is a %s", kind)
		}
	}
	cog.NewRuntime().RegisterDataqueryVariant(dataquery.VariantConfig())
	var board dashboard.Dashboard
	if mistakes := strictly(text); mistakes != "" {
		t.Fatal(mistakes)
	}
	// Their strict reading keeps no panels.
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if err := board.Validate(); err != nil {
		t.Fatal(err)
	}
	// A type that is not registered above would be let through as it is.
	known := map[string]bool{"heatmap": true, "stat": true, "table": true, "timeseries": true}
	titles, taken := map[string]bool{}, map[[2]uint32]bool{}
	section, queries := "", 0
	for _, entry := range board.Panels {
		if entry.RowPanel != nil {
			section = *entry.RowPanel.Title
			continue
		}
		panel := entry.Panel
		name := section + ", " + *panel.Title
		if !known[panel.Type] || panel.Description == nil || *panel.Description == "" || titles[name] || len(panel.Targets) == 0 {
			t.Errorf("%s: a %s that is told twice, not described or without a query", name, panel.Type)
		}
		titles[name] = true
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				if taken[[2]uint32{x, y}] || x >= 24 {
					t.Fatalf("%s lies on another panel", name)
				}
				taken[[2]uint32{x, y}] = true
			}
		}
		for _, target := range panel.Targets {
			query := target.(*dataquery.Dataquery).Expr
			queries++
			if _, err := promql().ParseExpr(concrete(query)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.Contains(query, `job=~"$job", instance=~"$instance"`) && !strings.HasPrefix(query, "count(ALERTS") {
				t.Errorf("%s does not heed the variables: %s", name, query)
			}
		}
	}
	if len(titles) < 40 || queries < 50 {
		t.Errorf("%d panels, %d queries", len(titles), queries)
	}
	// The check of types is worth nothing if it lets anything through.
	wrong := bytes.Replace(text, []byte(`"drawStyle"`), []byte(`"drawStile"`), 1)
	if strictly(wrong) == "" {
		t.Error("an unknown field is not seen")
	}
}

// What the types say against it. Their error may be a list without anything in it.
func strictly(text []byte) string {
	if err := new(dashboard.Dashboard).UnmarshalJSONStrict(text); err != nil {
		return err.Error()
	}
	return ""
}

func concrete(query string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$job", ".+", "$instance", ".+").Replace(query)
}

func TestTheDashboardIsWhatItsProgramWritesAndTheConfigMapHasIt(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(monitoringDir, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	written, err := exec.Command("python3", "../monitoring/dashboard.py").Output()
	if err != nil || !bytes.Equal(text, written) {
		t.Errorf("run deploy/monitoring/dashboard.py > deploy/helm/text2vec-sidecar/monitoring/dashboard.json: %v", err)
	}
	maps := decode[corev1.ConfigMap](t, renderSet(t, "monitored"), "ConfigMap")
	if len(maps) != 1 || maps[0].Labels["grafana_dashboard"] != "1" || maps[0].Annotations["grafana_folder"] != "Vectors" {
		t.Fatalf("%v", maps)
	}
	var there, wanted any
	if err := json.Unmarshal([]byte(maps[0].Data["text2vec-sidecar.json"]), &there); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &wanted); err != nil {
		t.Fatal(err)
	}
	if marshal(t, there) != marshal(t, wanted) {
		t.Error("the ConfigMap has another dashboard")
	}
}
