package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

const chartDir = "../helm/text2vec-sidecar"

func load(t *testing.T, dir string) *chart.Chart {
	t.Helper()
	loaded, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// render does what `helm template t2v <chart> --namespace vectors --values …` does.
func render(dir string, values chartutil.Values) (string, error) {
	loaded, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = chartutil.KubeVersion{Version: "v1.37.0", Major: "1", Minor: "37"}
	release := chartutil.ReleaseOptions{Name: "t2v", Namespace: "vectors", IsInstall: true}
	all, err := chartutil.ToRenderValues(loaded, values, release, capabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(loaded, all)
	if err != nil {
		return "", err
	}
	var manifests strings.Builder
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(text) != "" {
			manifests.WriteString("\n---\n" + text)
		}
	}
	return manifests.String(), nil
}

func valueSets(t *testing.T) map[string]chartutil.Values {
	t.Helper()
	paths, err := filepath.Glob("values/*.yaml")
	if err != nil || len(paths) < 6 {
		t.Fatalf("%d value sets: %v", len(paths), err)
	}
	sets := map[string]chartutil.Values{"defaults": {}}
	for _, path := range paths {
		values, err := chartutil.ReadValuesFile(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		sets[strings.TrimSuffix(filepath.Base(path), ".yaml")] = values
	}
	return sets
}

func TestEveryValueSetLintsRendersAndValidates(t *testing.T) {
	for name, values := range valueSets(t) {
		t.Run(name, func(t *testing.T) {
			linter := lint.AllWithKubeVersion(chartDir, values, "vectors", nil)
			for _, message := range linter.Messages {
				// An icon is all that a linter can find wrong with this chart.
				if message.Severity >= support.WarningSev {
					t.Errorf("helm lint: %v", message)
				}
			}
			manifests, err := render(chartDir, values)
			if err != nil {
				t.Fatal(err)
			}
			validate(t, name, manifests)
			pod := deployment(t, manifests).Spec.Template
			for _, broken := range restricted(t, name, pod) {
				t.Error(broken)
			}
			if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
				t.Error("the pod gets a service account's token")
			}
			for _, container := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
				if container.SecurityContext.ReadOnlyRootFilesystem == nil || !*container.SecurityContext.ReadOnlyRootFilesystem {
					t.Errorf("%s may write to its root filesystem", container.Name)
				}
			}
			everyMountHasItsVolume(t, pod.Spec)
			aPodIsFoundByItsServices(t, manifests)
		})
	}
}

func everyMountHasItsVolume(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	volumes := map[string]bool{}
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = false
	}
	for _, container := range append(pod.InitContainers, pod.Containers...) {
		for _, mount := range container.VolumeMounts {
			if _, there := volumes[mount.Name]; !there {
				t.Errorf("%s mounts %s, which is no volume", container.Name, mount.Name)
			}
			volumes[mount.Name] = true
		}
		// A file that a variable names must lie below a mount.
		for _, variable := range container.Env {
			if !strings.HasPrefix(variable.Value, "/") {
				continue
			}
			below := false
			for _, mount := range container.VolumeMounts {
				below = below || strings.HasPrefix(variable.Value+"/", mount.MountPath+"/")
			}
			if !below {
				t.Errorf("%s=%s lies on no volume", variable.Name, variable.Value)
			}
		}
	}
	for name, used := range volumes {
		if !used {
			t.Errorf("volume %s is mounted nowhere", name)
		}
	}
}

func aPodIsFoundByItsServices(t *testing.T, manifests string) {
	t.Helper()
	pod := deployment(t, manifests).Spec.Template
	services := decode[corev1.Service](t, manifests, "Service")
	if len(services) != 2 {
		t.Fatalf("%d services", len(services))
	}
	headless := 0
	for _, service := range services {
		for label, value := range service.Spec.Selector {
			if pod.Labels[label] != value {
				t.Errorf("%s selects %s=%s, the pod has %s", service.Name, label, value, pod.Labels[label])
			}
		}
		if service.Spec.Ports[0].TargetPort.StrVal != pod.Spec.Containers[0].Ports[0].Name {
			t.Errorf("%s has no port of the pod", service.Name)
		}
		if service.Spec.ClusterIP == corev1.ClusterIPNone {
			headless++
		}
	}
	if headless != 1 {
		t.Errorf("%d headless services", headless)
	}
}

func renderSet(t *testing.T, name string) string {
	t.Helper()
	manifests, err := render(chartDir, valueSets(t)[name])
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

func TestAModelComesFromWhereTheValuesSay(t *testing.T) {
	model := func(deployment appsv1.Deployment) *corev1.Volume {
		for _, volume := range deployment.Spec.Template.Spec.Volumes {
			if volume.Name == "model" {
				return &volume
			}
		}
		return nil
	}
	container := func(name string) (appsv1.Deployment, corev1.Container) {
		found := deployment(t, renderSet(t, name))
		return found, found.Spec.Template.Spec.Containers[0]
	}
	if found, server := container("baked"); model(found) != nil || variable(server, "T2V_MODEL") != "" {
		t.Error("baked: the image's own model is not left alone")
	}
	found, server := container("image")
	if volume := model(found); volume == nil || volume.Image == nil ||
		server.VolumeMounts[0].SubPath != "app/models/model" || !server.VolumeMounts[0].ReadOnly {
		t.Error("image: no image is mounted")
	}
	if !strings.HasSuffix(server.Image, "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef") {
		t.Errorf("image: %s", server.Image)
	}
	if variable(server, "T2V_CACHE_BYTES") != "268435456" {
		t.Errorf("image: a number became %q", variable(server, "T2V_CACHE_BYTES"))
	}
	found, _ = container("copy")
	if init := found.Spec.Template.Spec.InitContainers[0]; strings.Join(init.Command, " ") != "cp -r /app/models/model/. /model" {
		t.Errorf("copy: %v", init.Command)
	}
	if volume := model(found); volume.EmptyDir == nil || volume.EmptyDir.SizeLimit.String() != "500Mi" {
		t.Errorf("copy: %v", volume)
	}
	found, server = container("volume")
	if volume := model(found); volume.PersistentVolumeClaim == nil || !volume.PersistentVolumeClaim.ReadOnly {
		t.Errorf("volume: %v", volume)
	}
	if models := variable(server, "T2V_MODEL"); !strings.Contains(models, "bge=") {
		t.Errorf("volume: the values' own T2V_MODEL became %q", models)
	}
	found, _ = container("download")
	init := found.Spec.Template.Spec.InitContainers[0]
	if strings.Join(init.Args, " ") != "download google/embeddinggemma-300m --revision=main --dir=/model/embeddinggemma-300m" ||
		variable(init, "HF_TOKEN_PATH") != "/secrets/hub/token" {
		t.Errorf("download: %v", init)
	}
	if found, _ := container("upstream"); model(found) != nil || len(found.Spec.Template.Spec.InitContainers) != 0 {
		t.Error("upstream: there is a model")
	}
}

func TestCardsAreAskedForAndUsed(t *testing.T) {
	found := deployment(t, renderSet(t, "gpu")).Spec
	server := found.Template.Spec.Containers[0]
	if cards := server.Resources.Limits["nvidia.com/gpu"]; cards.Value() != 2 {
		t.Errorf("%s cards", cards.String())
	}
	if memory := server.Resources.Limits[corev1.ResourceMemory]; memory.String() != "4Gi" {
		t.Errorf("%s of memory", memory.String())
	}
	if device := variable(server, "T2V_DEVICE"); device != "cuda:0,1" {
		t.Errorf("the sidecar computes on %q", device)
	}
	if !strings.HasSuffix(server.Image, "/text2vec-sidecar:bge-base-cuda") {
		t.Errorf("the image is %s", server.Image)
	}
	if class := found.Template.Spec.RuntimeClassName; class == nil || *class != "nvidia" {
		t.Errorf("the runtime class is %v", class)
	}
	if update := found.Strategy.RollingUpdate; update.MaxSurge.IntValue() != 0 || update.MaxUnavailable.IntValue() != 1 {
		t.Errorf("an update needs a card more: %v", update)
	}
	plain := deployment(t, renderSet(t, "baked")).Spec
	server = plain.Template.Spec.Containers[0]
	if _, there := server.Resources.Limits["nvidia.com/gpu"]; there || variable(server, "T2V_DEVICE") != "" {
		t.Error("cards are asked for without gpu.enabled")
	}
	values, err := chartutil.ReadValues([]byte("{gpu: {enabled: true, tag: mine}, env: {T2V_DEVICE: cuda}}"))
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := render(chartDir, values)
	if err != nil {
		t.Fatal(err)
	}
	server = deployment(t, manifests).Spec.Template.Spec.Containers[0]
	if variable(server, "T2V_DEVICE") != "cuda" || !strings.HasSuffix(server.Image, ":mine") {
		t.Errorf("%q, %s", variable(server, "T2V_DEVICE"), server.Image)
	}
}

func TestSecretsProbesAndShutdown(t *testing.T) {
	secured := deployment(t, renderSet(t, "secured"))
	server := secured.Spec.Template.Spec.Containers[0]
	for name, wanted := range map[string]string{
		"T2V_LISTEN":           "0.0.0.0:8443",
		"T2V_AUTH_TOKENS_FILE": "/secrets/auth/tokens",
		"T2V_TLS_CERT":         "/secrets/tls/tls.crt",
		"T2V_TLS_KEY":          "/secrets/tls/tls.key",
		"T2V_TLS_CLIENT_CA":    "/secrets/client-ca/ca.crt",
		"T2V_SHUTDOWN_GRACE":   "60",
		"T2V_DRAIN_DELAY":      "10",
		"OTEL_SERVICE_NAME":    "text2vec-sidecar",

		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability:4317",
		"OTEL_TRACES_SAMPLER_ARG":     "0.1",
	} {
		if got := variable(server, name); got != wanted {
			t.Errorf("%s is %q, not %q", name, got, wanted)
		}
	}
	if scheme := server.ReadinessProbe.HTTPGet.Scheme; scheme != corev1.URISchemeHTTPS {
		t.Errorf("probes ask by %s", scheme)
	}
	if grace := *secured.Spec.Template.Spec.TerminationGracePeriodSeconds; grace != 70 {
		t.Errorf("the pod is killed after %d s, the server ends after 60", grace)
	}
	scaled := deployment(t, renderSet(t, "scaled")).Spec
	if scaled.Replicas != nil {
		t.Error("replicas are set beside an autoscaler")
	}
	probed := scaled.Template.Spec.Containers[0]
	if probed.ReadinessProbe.GRPC == nil || probed.StartupProbe.GRPC == nil || probed.LivenessProbe.HTTPGet.Path != "/.well-known/live" {
		t.Errorf("gRPC probes: %v", probed.ReadinessProbe)
	}
	executed := deployment(t, renderSet(t, "volume")).Spec.Template.Spec.Containers[0]
	if command := executed.StartupProbe.Exec.Command; strings.Join(command, " ") != "/text2vec-sidecar healthcheck" {
		t.Errorf("exec probes: %v", command)
	}
}

func TestScalingAndDisruption(t *testing.T) {
	scaled := decode[autoscalingv2.HorizontalPodAutoscaler](t, renderSet(t, "scaled"), "HorizontalPodAutoscaler")
	if metric := scaled[0].Spec.Metrics[0]; metric.Pods == nil || metric.Pods.Metric.Name != "t2v_queue_depth" {
		t.Errorf("%v", metric)
	}
	forwarding := decode[autoscalingv2.HorizontalPodAutoscaler](t, renderSet(t, "upstream"), "HorizontalPodAutoscaler")
	if metric := forwarding[0].Spec.Metrics[0]; metric.Resource == nil || *metric.Resource.Target.AverageUtilization != 80 {
		t.Errorf("%v", metric)
	}
	for name, wanted := range map[string]int{"defaults": 1, "scaled": 1, "copy": 0} {
		if budgets := decode[policyv1.PodDisruptionBudget](t, renderSet(t, name), "PodDisruptionBudget"); len(budgets) != wanted {
			t.Errorf("%s: %d disruption budgets", name, len(budgets))
		}
	}
	policies := decode[networkingv1.NetworkPolicy](t, renderSet(t, "download"), "NetworkPolicy")
	if len(policies) != 1 || len(policies[0].Spec.Egress) != 2 {
		t.Errorf("%v", policies)
	}
	if policies := decode[networkingv1.NetworkPolicy](t, renderSet(t, "defaults"), "NetworkPolicy"); len(policies) != 0 {
		t.Errorf("%v", policies)
	}
}

func TestWrongValuesAreRefusedWithTheRemedy(t *testing.T) {
	for text, wanted := range map[string]string{
		"model: {source: image}":                       "model.image.reference",
		"model: {source: volume}":                      "model.volume.claim",
		"model: {source: upstream}":                    "env.T2V_UPSTREAM",
		"model: {source: hub}":                         "source",
		"modle: {source: baked}":                       "modle",
		"tls: {clientCASecret: x}":                     "tls.secret",
		"{probes: {type: grpc}, tls: {secret: x}}":     "probes.type",
		"service: {port: 80}":                          "port",
		"gpu: {count: 0}":                              "count",
		"autoscaling: {enabled: true, metric: memory}": "metric",
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

// The notes are what an operator copies from.
func TestNotesNameTheServiceThatIsThere(t *testing.T) {
	loaded := load(t, chartDir)
	install := action.NewInstall(&action.Configuration{})
	install.DryRun, install.ClientOnly, install.ReleaseName, install.Namespace = true, true, "t2v", "vectors"
	install.KubeVersion = &chartutil.KubeVersion{Version: "v1.37.0", Major: "1", Minor: "37"}
	release, err := install.Run(loaded, valueSets(t)["secured"])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(release.Info.Notes, "TRANSFORMERS_INFERENCE_API=https://any:<token>@t2v.vectors.svc:8443") {
		t.Error(release.Info.Notes)
	}
	if services := decode[corev1.Service](t, release.Manifest, "Service"); services[0].Name != "t2v" && services[1].Name != "t2v" {
		t.Errorf("no service t2v")
	}
	if _, err := os.Stat(filepath.Join(chartDir, "values.schema.json")); err != nil {
		t.Error(err)
	}
}
