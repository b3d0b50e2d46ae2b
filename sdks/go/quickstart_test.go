//go:build conformance

package wrenn

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The quickstart of README.md is run as it is written, in a module of its own.
func TestQuickstartRunsAsWritten(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "## Quickstart\n\n```go\n")
	program, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no quickstart in README.md")
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Stderr = os.Stderr
		output, err := cmd.Output()
		if err != nil {
			t.Fatal(args, err)
		}
		return string(output)
	}
	command("mod", "init", "quickstart")
	// A workspace, not `go mod tidy`, which asks the network for modules of tests.
	command("work", "init", ".", here)
	if output := command("run", "."); !strings.HasPrefix(output, "hi\n42\nstdout: 1\n") || !strings.HasSuffix(output, "3\n") {
		t.Fatalf("it printed %q", output)
	}
}
