package check

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
)

func TestComposeFilesLoadAndWeaviateFindsTheSidecar(t *testing.T) {
	paths, err := filepath.Glob("../compose/*.yml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("%v: %v", paths, err)
	}
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		options, err := cli.NewProjectOptions([]string{path}, cli.WithName("check"))
		if err != nil {
			t.Fatal(err)
		}
		project, err := options.LoadProject(context.Background())
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		weaviate := project.Services["weaviate"]
		asked := 0
		for name, value := range weaviate.Environment {
			if !strings.HasSuffix(name, "_INFERENCE_API") {
				continue
			}
			asked++
			address, err := url.Parse(*value)
			if err != nil {
				t.Fatal(err)
			}
			sidecar, there := project.Services[address.Hostname()]
			if !there {
				t.Errorf("%s: %s names %s, which is no service", path, name, address.Hostname())
			}
			if address.Port() != "8080" || !strings.Contains(string(dockerfile), "EXPOSE "+address.Port()) {
				t.Errorf("%s: nobody listens on %s", path, address.Host)
			}
			if !sidecar.ReadOnly || len(sidecar.CapDrop) != 1 || sidecar.CapDrop[0] != "ALL" {
				t.Errorf("%s: %s may do more than it needs", path, sidecar.Name)
			}
			if condition := weaviate.DependsOn[sidecar.Name].Condition; condition != "service_healthy" {
				t.Errorf("%s: Weaviate starts when the sidecar is %q", path, condition)
			}
			if sidecar.HealthCheck == nil && !strings.Contains(string(dockerfile), "\nHEALTHCHECK ") {
				t.Errorf("%s: nothing tells whether %s is healthy", path, sidecar.Name)
			}
		}
		if filepath.Base(path) == "gpu.yml" {
			sidecar := project.Services["t2v-transformers"]
			devices := sidecar.Deploy.Resources.Reservations.Devices
			if len(devices) != 1 || devices[0].Driver != "nvidia" || strings.Join(devices[0].Capabilities, "") != "gpu" {
				t.Errorf("%s: the sidecar gets %v", path, devices)
			}
			if enabled := sidecar.Environment["ENABLE_CUDA"]; enabled == nil || *enabled != "1" {
				t.Errorf("%s: the sidecar is not told to use its GPU", path)
			}
		}
		if asked == 0 {
			t.Errorf("%s: Weaviate asks nobody", path)
		}
		published := map[string]string{}
		for _, service := range project.Services {
			for _, port := range service.Ports {
				if other, taken := published[port.Published]; taken {
					t.Errorf("%s: %s and %s both publish %s", path, other, service.Name, port.Published)
				}
				published[port.Published] = service.Name
			}
		}
	}
}
