package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Tenths of systemd's measure of what a service may do, of 10.0.
const maxExposure = "14"

func systemdFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The default of a flag, as the documents have it.
func flagDefault(t *testing.T, flag string) int {
	t.Helper()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("\\| `" + flag + "` \\| `[A-Z0-9_]+` \\| `([0-9]+)` \\|").FindSubmatch(page)
	if found == nil {
		t.Fatalf("docs/configuration.md has no default of %s", flag)
	}
	number, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestTheUnitGivesTheSidecarWhatItNeeds(t *testing.T) {
	unit := systemdFile(t, "text2vec-sidecar.service")
	number := func(setting string) int {
		found := regexp.MustCompile(`(?m)^` + setting + `=([0-9]+)s?$`).FindStringSubmatch(unit)
		if found == nil {
			t.Fatalf("no %s", setting)
		}
		value, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if grace := flagDefault(t, "--shutdown-grace"); number("TimeoutStopSec") <= grace {
		t.Errorf("it is killed before its %d s are over", grace)
	}
	if connections := flagDefault(t, "--max-connections"); number("LimitNOFILE") < 2*connections {
		t.Errorf("too few files for %d connections", connections)
	}
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	variables := 0
	for _, line := range strings.Split(systemdFile(t, "environment"), "\n") {
		name, _, set := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if !set || strings.HasPrefix(line, "# ") || !strings.HasPrefix(name, "T2V_") {
			continue
		}
		variables++
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is no variable", name)
		}
	}
	if variables < 5 {
		t.Errorf("%d variables", variables)
	}
}

// systemd's own word on the unit. `deploy/systemd/check.sh` starts it.
func TestSystemdKnowsEverySettingAndTheServiceMayDoLittle(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing: apt-get install systemd")
	}
	// It looks for the program, too.
	unit := strings.Replace(systemdFile(t, "text2vec-sidecar.service"), "=/usr/local/bin/text2vec-sidecar", "=/bin/true", 1)
	path := filepath.Join(t.TempDir(), "text2vec-sidecar.service")
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("%v: %s", err, said)
	}
	said, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+maxExposure, path).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	t.Log(lines[len(lines)-1])
	if err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
