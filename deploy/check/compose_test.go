package check

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
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
		ours := 0
		for _, service := range project.Services {
			if name, _, _ := strings.Cut(service.Image, ":"); name == "text2vec-sidecar" {
				ours++
				imageIsBuiltFromAClone(t, path, service)
			}
		}
		if ours == 0 {
			t.Errorf("%s: no service has an image of ours", path)
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

// imageIsBuiltFromAClone holds that a service without a published image says how to build it: from the root of the repository,
// by a Dockerfile that is there and has that target and those arguments, with the model that the image's tag names.
func imageIsBuiltFromAClone(t *testing.T, path string, service types.ServiceConfig) {
	t.Helper()
	build := service.Build
	if build == nil {
		t.Errorf("%s: %s has an image that nobody publishes, and no build", path, service.Name)
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if build.Context != root {
		t.Errorf("%s: %s is built in %s instead of %s", path, service.Name, build.Context, root)
	}
	text, err := os.ReadFile(filepath.Join(build.Context, build.Dockerfile))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	targets, arguments := map[string]bool{}, map[string]bool{}
	for _, line := range strings.Split(string(text), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) >= 4 && words[0] == "FROM" && words[len(words)-2] == "AS":
			targets[words[len(words)-1]] = true
		case len(words) >= 2 && words[0] == "ARG":
			name, _, _ := strings.Cut(words[1], "=")
			arguments[name] = true
		}
	}
	if !targets[build.Target] {
		t.Errorf("%s: %s has no target %q", path, build.Dockerfile, build.Target)
	}
	for name := range build.Args {
		if !arguments[name] {
			t.Errorf("%s: %s has no argument %q", path, build.Dockerfile, name)
		}
	}
	_, tag, _ := strings.Cut(service.Image, ":")
	model := build.Args["MODEL"]
	if (build.Target == "baked") != (model != nil) {
		t.Errorf("%s: %s with the target %q and a model %v", path, service.Name, build.Target, model)
	}
	if model != nil && !strings.HasPrefix(tag, filepath.Base(*model)) {
		t.Errorf("%s: the image %s has the model %s", path, service.Image, *model)
	}
	if _, onGPU := service.Environment["ENABLE_CUDA"]; onGPU != strings.Contains(build.Dockerfile, "cuda") {
		t.Errorf("%s: %s is built by %s", path, service.Name, build.Dockerfile)
	}
}
