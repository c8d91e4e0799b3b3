package check

import (
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
)

// What Weaviate's own chart reads of these values, and where it puts it (weaviate-helm, weaviate/values.yaml,
// templates/transformersInferenceDeployment.yaml and weaviateStatefulset.yaml): a misspelt key is an error here.
type weaviateValues struct {
	Modules struct {
		Transformers struct {
			Enabled         *bool                       `json:"enabled"`
			InferenceURL    string                      `json:"inferenceUrl"`
			Registry        string                      `json:"registry"`
			Repo            string                      `json:"repo"`
			Tag             string                      `json:"tag"`
			Replicas        *int32                      `json:"replicas"`
			LivenessProbe   probeTimes                  `json:"livenessProbe"`
			ReadinessProbe  probeTimes                  `json:"readinessProbe"`
			Resources       corev1.ResourceRequirements `json:"resources"`
			SecurityContext *corev1.PodSecurityContext  `json:"securityContext"`
		} `json:"text2vec-transformers"`
	} `json:"modules"`
	InitContainers struct {
		Extra []corev1.Container `json:"extraInitContainers"`
	} `json:"initContainers"`
}

type probeTimes struct {
	InitialDelaySeconds int32 `json:"initialDelaySeconds"`
	PeriodSeconds       int32 `json:"periodSeconds"`
	TimeoutSeconds      int32 `json:"timeoutSeconds"`
}

func (times probeTimes) asks(path string) *corev1.Probe {
	probe := &corev1.Probe{
		InitialDelaySeconds: times.InitialDelaySeconds, PeriodSeconds: times.PeriodSeconds, TimeoutSeconds: times.TimeoutSeconds,
	}
	probe.HTTPGet = &corev1.HTTPGetAction{Path: path}
	probe.HTTPGet.Port.IntVal = 8080
	return probe
}

func official(t *testing.T, form string) weaviateValues {
	t.Helper()
	text, err := os.ReadFile("../weaviate-helm-values/" + form + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values weaviateValues
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatalf("%s: %v", form, err)
	}
	return values
}

// The parts of the chart's objects that these values decide, put together as the chart does.
func TestTheImageFormMakesTheChartsDeployment(t *testing.T) {
	module := official(t, "image").Modules.Transformers
	if module.Enabled == nil || !*module.Enabled || module.InferenceURL != "" {
		t.Fatal("the chart would not run the image")
	}
	// The chart's own limits stay where the values name none: one core, and the kill of a container over 5 GiB.
	if module.Resources.Limits.Cpu().MilliValue() == 1000 || module.Resources.Limits.Cpu().IsZero() {
		t.Error("the chart's limit of one core would stay")
	}
	labels := map[string]string{"app": "transformers-inference"}
	made := appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "transformers-inference"},
		Spec: appsv1.DeploymentSpec{
			Replicas: module.Replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					SecurityContext: module.SecurityContext,
					Containers: []corev1.Container{{
						Name:           "transformers-inference",
						Image:          module.Registry + "/" + module.Repo + ":" + module.Tag,
						Env:            []corev1.EnvVar{{Name: "ENABLE_CUDA", Value: "0"}},
						Resources:      module.Resources,
						LivenessProbe:  module.LivenessProbe.asks("/.well-known/live"),
						ReadinessProbe: module.ReadinessProbe.asks("/.well-known/ready"),
					}},
				},
			},
		},
	}
	validate(t, "image", marshal(t, made))
	// The chart sets no container's security context, so of the restricted profile only the pod's part can hold.
	for _, broken := range restricted(t, "image", made.Spec.Template) {
		if !strings.Contains(broken, "allowPrivilegeEscalation") && !strings.Contains(broken, "unrestricted capabilities") {
			t.Error(broken)
		}
	}
}

func TestTheURLFormNamesAServiceOfOurChart(t *testing.T) {
	module := official(t, "url").Modules.Transformers
	if module.Enabled == nil || *module.Enabled {
		t.Error("the chart would run the reference container, and ignore the URL")
	}
	manifests := renderSet(t, "defaults")
	for _, service := range decode[corev1.Service](t, manifests, "Service") {
		if module.InferenceURL == "http://"+service.Name+".vectors.svc.cluster.local.:8080" {
			return
		}
	}
	t.Errorf("%s is no service of release t2v in namespace vectors", module.InferenceURL)
}

func TestTheSidecarFormIsReadyBeforeWeaviateStarts(t *testing.T) {
	values := official(t, "sidecar")
	module := values.Modules.Transformers
	if *module.Enabled || len(values.InitContainers.Extra) != 1 {
		t.Fatal("no sidecar, or another container beside it")
	}
	sidecar := values.InitContainers.Extra[0]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("an init container that ends: Weaviate would wait for ever")
	}
	if listen := variable(sidecar, "T2V_LISTEN"); module.InferenceURL != "http://"+listen || !strings.HasPrefix(listen, "127.0.0.1:") {
		t.Errorf("listens on %s, Weaviate asks %s", listen, module.InferenceURL)
	}
	for _, taken := range []string{":8080", ":50051", ":2112", ":7000", ":7001"} {
		if strings.HasSuffix(module.InferenceURL, taken) {
			t.Errorf("%s is Weaviate's own port", taken)
		}
	}
	// The kubelet asks the pod's address, where nobody listens.
	for name, probe := range map[string]*corev1.Probe{"startup": sidecar.StartupProbe, "liveness": sidecar.LivenessProbe} {
		if probe == nil || probe.Exec == nil || strings.Join(probe.Exec.Command, " ") != "/text2vec-sidecar healthcheck" {
			t.Errorf("%s probe: %v", name, probe)
		}
	}
	labels := map[string]string{"app": "weaviate"}
	pod := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			InitContainers: values.InitContainers.Extra,
			Containers: []corev1.Container{{
				Name: "weaviate", Image: "weaviate", SecurityContext: sidecar.SecurityContext,
				Env: []corev1.EnvVar{{Name: "TRANSFORMERS_INFERENCE_API", Value: module.InferenceURL}},
			}},
		},
	}
	// With a Weaviate that keeps to the restricted profile, the pod does.
	for _, broken := range restricted(t, "sidecar", pod) {
		t.Error(broken)
	}
	validate(t, "sidecar", marshal(t, appsv1.StatefulSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: metav1.ObjectMeta{Name: "weaviate"},
		Spec: appsv1.StatefulSetSpec{
			ServiceName: "weaviate-headless",
			Selector:    &metav1.LabelSelector{MatchLabels: labels},
			Template:    pod,
		},
	}))
}

// With T2V_WEAVIATE_CHART=<directory of Weaviate's chart> the three forms are rendered by the chart itself.
func TestWeaviatesOwnChartTakesTheThreeForms(t *testing.T) {
	dir := os.Getenv("T2V_WEAVIATE_CHART")
	if dir == "" {
		t.Log("T2V_WEAVIATE_CHART names no chart: the three forms are checked without it")
		return
	}
	if _, err := loader.Load(dir); err != nil {
		t.Fatal(err)
	}
	for form, wanted := range map[string]string{
		"image":   "registry.example/text2vec-sidecar:all-MiniLM-L6-v2",
		"url":     "http://t2v-text2vec-sidecar.vectors.svc.cluster.local.:8080",
		"sidecar": "restartPolicy: Always",
	} {
		values, err := chartutil.ReadValuesFile("../weaviate-helm-values/" + form + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		manifests, err := render(dir, values)
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		validate(t, form, manifests)
		if !strings.Contains(manifests, wanted) {
			t.Errorf("%s: no %s", form, wanted)
		}
	}
}
