package check

import (
	"os"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

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
			Affinity        *corev1.Affinity            `json:"affinity"`
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

// inference is the deployment that the chart makes of these values.
func inference(values weaviateValues) appsv1.Deployment {
	module := values.Modules.Transformers
	labels := map[string]string{"app": "transformers-inference"}
	return appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "transformers-inference"},
		Spec: appsv1.DeploymentSpec{
			Replicas: module.Replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Affinity:        module.Affinity,
					SecurityContext: module.SecurityContext,
					Containers: []corev1.Container{{
						Name:            "transformers-inference",
						Image:           module.Registry + "/" + module.Repo + ":" + module.Tag,
						ImagePullPolicy: corev1.PullIfNotPresent,
						Env:             []corev1.EnvVar{{Name: "ENABLE_CUDA", Value: "0"}},
						Resources:       module.Resources,
						LivenessProbe:   module.LivenessProbe.asks("/.well-known/live"),
						ReadinessProbe:  module.ReadinessProbe.asks("/.well-known/ready"),
					}},
				},
			},
		},
	}
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
	made := inference(official(t, "image"))
	validate(t, "image", marshal(t, made))
	// The chart sets no container's security context, so of the restricted profile only the pod's part can hold.
	podsPart(t, "image", made.Spec.Template)
}

// podsPart leaves out what only a container's security context could mend.
func podsPart(t *testing.T, name string, pod corev1.PodTemplateSpec) {
	t.Helper()
	for _, broken := range restricted(t, name, pod) {
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
	for _, taken := range []string{":8080", ":50051", ":2112", ":6060", ":7000", ":7001", ":8300", ":8301"} {
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

// Weaviate's pod beside the sidecar, as the chart makes it with restricted.yaml on top.
func TestTheRestrictedFileBringsThePodUnderTheProfile(t *testing.T) {
	text, err := os.ReadFile("../weaviate-helm-values/restricted.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		InitContainers struct {
			Sysctl struct {
				Enabled *bool `json:"enabled"`
			} `json:"sysctlInitContainer"`
		} `json:"initContainers"`
		Pod       *corev1.PodSecurityContext `json:"securityContext"`
		Container *corev1.SecurityContext    `json:"containerSecurityContext"`
	}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	if enabled := values.InitContainers.Sysctl.Enabled; enabled == nil || *enabled {
		t.Error("the chart's privileged init container stays")
	}
	pod := corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		SecurityContext: values.Pod,
		InitContainers:  official(t, "sidecar").InitContainers.Extra,
		Containers:      []corev1.Container{{Name: "weaviate", Image: "weaviate", SecurityContext: values.Container}},
	}}
	for _, broken := range restricted(t, "restricted", pod) {
		t.Error(broken)
	}
}

// With T2V_WEAVIATE_CHART=<directory of Weaviate's chart>, as `helm pull weaviate/weaviate --untar` makes it, the three forms
// are rendered by the chart itself, each without restricted.yaml and with it.
func TestWeaviatesOwnChartTakesTheThreeForms(t *testing.T) {
	dir := os.Getenv("T2V_WEAVIATE_CHART")
	if dir == "" {
		t.Log("T2V_WEAVIATE_CHART names no chart: the three forms are checked without it")
		return
	}
	for _, form := range []string{"image", "url", "sidecar"} {
		for _, files := range [][]string{{form}, {form, "restricted"}} {
			name := strings.Join(files, "+")
			t.Run(name, func(t *testing.T) {
				manifests := renderWeaviate(t, dir, files)
				validate(t, name, manifests)
				sets := decode[appsv1.StatefulSet](t, manifests, "StatefulSet")
				if len(sets) != 1 {
					t.Fatalf("%d stateful sets", len(sets))
				}
				pod := sets[0].Spec.Template
				// By itself the chart's Weaviate breaks the profile; the sidecar beside it does not.
				for _, broken := range restricted(t, name, pod) {
					if len(files) == 2 || strings.Contains(broken, "text2vec-sidecar") {
						t.Error(broken)
					}
				}
				weaviate := pod.Spec.Containers[0]
				if modules := variable(weaviate, "ENABLE_MODULES"); modules != "text2vec-transformers" {
					t.Errorf("ENABLE_MODULES is %q", modules)
				}
				url := official(t, form).Modules.Transformers.InferenceURL
				deployments := decode[appsv1.Deployment](t, manifests, "Deployment")
				switch form {
				case "image":
					url = "http://transformers-inference.vectors.svc.cluster.local.:8080"
					runsOurImage(t, name, deployments, decode[corev1.Service](t, manifests, "Service"))
				case "sidecar":
					startsFirst(t, pod)
					fallthrough
				default:
					if len(deployments) != 0 {
						t.Errorf("the chart runs %s as well", deployments[0].Name)
					}
				}
				if asked := variable(weaviate, "TRANSFORMERS_INFERENCE_API"); asked != url {
					t.Errorf("Weaviate asks %q, not %q", asked, url)
				}
			})
		}
	}
}

// renderWeaviate renders Weaviate's chart; of several files the last one wins, as with helm's -f.
func renderWeaviate(t *testing.T, dir string, files []string) string {
	t.Helper()
	values := chartutil.Values{}
	for _, file := range files {
		read, err := chartutil.ReadValuesFile("../weaviate-helm-values/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		values = chartutil.CoalesceTables(read, values)
	}
	manifests, err := render(dir, values)
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

func runsOurImage(t *testing.T, name string, deployments []appsv1.Deployment, services []corev1.Service) {
	t.Helper()
	if len(deployments) != 1 {
		t.Fatalf("%d deployments", len(deployments))
	}
	made, expected := deployments[0], inference(official(t, "image"))
	if made.Name != expected.Name || *made.Spec.Replicas != *expected.Spec.Replicas ||
		!equality.Semantic.DeepEqual(made.Spec.Template, expected.Spec.Template) {
		t.Errorf("the chart makes\n%s\nnot\n%s", marshal(t, made), marshal(t, expected))
	}
	podsPart(t, name, made.Spec.Template)
	for _, service := range services {
		if service.Name == "transformers-inference" {
			if port := service.Spec.Ports[0]; port.Port != 8080 || port.TargetPort.IntValue() != 8080 ||
				!equality.Semantic.DeepEqual(service.Spec.Selector, made.Spec.Template.Labels) {
				t.Errorf("the service leads elsewhere: %s", marshal(t, service))
			}
			return
		}
	}
	t.Error("no service")
}

func startsFirst(t *testing.T, pod corev1.PodTemplateSpec) {
	t.Helper()
	values := official(t, "sidecar")
	first := pod.Spec.InitContainers
	if len(first) == 0 || !equality.Semantic.DeepEqual(first[len(first)-1], values.InitContainers.Extra[0]) {
		t.Fatalf("before Weaviate the chart starts %v", first)
	}
	_, port, _ := strings.Cut(variable(values.InitContainers.Extra[0], "T2V_LISTEN"), ":")
	weaviate := pod.Spec.Containers[0]
	for _, taken := range weaviate.Ports {
		if port == strconv.Itoa(int(taken.ContainerPort)) {
			t.Errorf("%s is Weaviate's port %s", port, taken.Name)
		}
	}
	for _, variable := range weaviate.Env {
		if strings.HasSuffix(variable.Name, "_PORT") && variable.Value == port {
			t.Errorf("%s is Weaviate's %s", port, variable.Name)
		}
	}
}
