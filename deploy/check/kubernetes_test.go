// Package check holds what deploy/ promises to what Kubernetes and Compose themselves make of it: the charts are rendered by
// helm, held against the schemas of Kubernetes and its restricted profile; compose files are read by Compose's own loader.
package check

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// Versions of Kubernetes whose schemas are checked: the oldest that mounts images, and the newest there are schemas of.
var kubernetesVersions = []string{"1.33.0", "1.37.0"}

// A checker for each version; it keeps the schemas it has read.
var checkers = map[string]validator.Validator{}

func checker(t *testing.T, version string) validator.Validator {
	t.Helper()
	if made, there := checkers[version]; there {
		return made
	}
	schemas := os.Getenv("T2V_KUBERNETES_SCHEMAS")
	if schemas == "" {
		t.Fatal("T2V_KUBERNETES_SCHEMAS names no directory: run `make deploy-check`")
	}
	location := filepath.Join(schemas, "v"+version+"-local-strict", "{{ .ResourceKind }}{{ .KindSuffix }}.json")
	// Resources of the Prometheus operator are none of Kubernetes: monitoring_test.go reads them by the operator's own types.
	operators := map[string]struct{}{"ServiceMonitor": {}, "PrometheusRule": {}}
	options := validator.Opts{KubernetesVersion: version, Strict: true, SkipKinds: operators}
	made, err := validator.New([]string{location}, options)
	if err != nil {
		t.Fatal(err)
	}
	checkers[version] = made
	return made
}

// validate holds manifests against the schemas; unknown fields are errors.
func validate(t *testing.T, name, manifests string) {
	t.Helper()
	for _, version := range kubernetesVersions {
		count := 0
		for _, result := range checker(t, version).Validate(name, io.NopCloser(strings.NewReader(manifests))) {
			switch result.Status {
			case validator.Valid:
				count++
			case validator.Empty, validator.Skipped:
			default:
				signature, _ := result.Resource.Signature()
				t.Errorf("%s, Kubernetes %s: %v: %v", name, version, signature, result.Err)
			}
		}
		if count == 0 {
			t.Errorf("%s: no manifest was checked", name)
		}
	}
}

// restricted applies Kubernetes' own rules of the restricted profile to a pod.
func restricted(t *testing.T, name string, template corev1.PodTemplateSpec) []string {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := psa.LevelVersion{Level: psa.LevelRestricted, Version: psa.LatestVersion()}
	var broken []string
	for _, result := range evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed {
			broken = append(broken, fmt.Sprintf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	return broken
}

// decode reads every document of a kind.
func decode[T any](t *testing.T, manifests, kind string) []T {
	t.Helper()
	var found []T
	for _, document := range strings.Split(manifests, "\n---") {
		var head struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if head.Kind != kind {
			continue
		}
		var object T
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		found = append(found, object)
	}
	return found
}

func deployment(t *testing.T, manifests string) appsv1.Deployment {
	t.Helper()
	found := decode[appsv1.Deployment](t, manifests, "Deployment")
	if len(found) != 1 {
		t.Fatalf("%d deployments", len(found))
	}
	return found[0]
}

func variable(container corev1.Container, name string) string {
	for _, variable := range container.Env {
		if variable.Name == name {
			return variable.Value
		}
	}
	return ""
}

func marshal(t *testing.T, object any) string {
	t.Helper()
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(text)) + "\n"
}

// Without this the test of the profile could pass for the wrong reason.
func TestTheProfileRefusesARootUserAndAnUnknownFieldIsSeen(t *testing.T) {
	root := int64(0)
	pod := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "x", Image: "x", SecurityContext: &corev1.SecurityContext{RunAsUser: &root},
	}}}}
	if broken := restricted(t, "root", pod); len(broken) < 4 {
		t.Errorf("only %v", broken)
	}
	text := "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\nspec:\n  portz: []\n"
	for _, result := range checker(t, "1.37.0").Validate("x", io.NopCloser(strings.NewReader(text))) {
		if result.Status != validator.Invalid {
			t.Errorf("a service with portz: %v %v", result.Status, result.Err)
		}
	}
}
