//go:build conformance

package wrenn

// The scenarios of sdks/conformance, run against the server of WRENN_API_URL.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type step struct {
	Do     string         `json:"do"`
	On     string         `json:"on"`
	With   map[string]any `json:"with"`
	As     string         `json:"as"`
	Expect any            `json:"expect"`
	Error  any            `json:"error"`
}

type scenario struct {
	Name    string            `json:"name"`
	Uses    string            `json:"uses"`
	Through string            `json:"through"`
	Steps   []json.RawMessage `json:"steps"`
}

// world is the state of a scenario.
type world struct {
	ctx      context.Context
	client   *Client
	proxyURL string
	values   map[string]any
	cleanups []func()
}

func (w *world) cleanup(do func()) { w.cleanups = append(w.cleanups, do) }

func startProxy(t *testing.T, server string) string {
	t.Helper()
	proxy := exec.Command("python3", "../conformance/faults.py", "--to", server)
	input, err := proxy.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := proxy.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	proxy.Stderr = os.Stderr
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		_ = proxy.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestConformance(t *testing.T) {
	server := os.Getenv("WRENN_API_URL")
	if server == "" {
		t.Fatal("set WRENN_API_URL and WRENN_API_KEY to those of a server for tests")
	}
	proxyURL := startProxy(t, server)
	ctx := context.Background()
	shared, err := Create(ctx, CreateOptions{Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer shared.Close()
	files, err := filepath.Glob("../conformance/scenarios/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var scenarios []scenario
		if err := json.Unmarshal(text, &scenarios); err != nil {
			t.Fatal(file, err)
		}
		for _, scenario := range scenarios {
			t.Run(scenario.Name, func(t *testing.T) { runScenario(t, &scenario, shared, server, proxyURL) })
		}
	}
}

func runScenario(t *testing.T, scenario *scenario, shared *Sandbox, server, proxyURL string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var options ClientOptions
	if scenario.Through != "" {
		options.APIURL = proxyURL
	}
	client := NewClient(options)
	w := &world{ctx: ctx, client: client, proxyURL: proxyURL}
	w.values = map[string]any{"client": client, "run": randomID()[:8], "server_url": server}
	defer func() {
		for index := len(w.cleanups) - 1; index >= 0; index-- {
			w.cleanups[index]()
		}
	}()
	if scenario.Uses != "" {
		dir := "/home/user/scenario-" + randomID()[:8]
		if _, err := shared.Files.MakeDir(ctx, dir); err != nil {
			t.Fatal(err)
		}
		sandbox, err := client.Get(ctx, shared.ID())
		if err != nil {
			t.Fatal(err)
		}
		w.values["dir"], w.values["sandbox"] = dir, sandbox
	}
	for index, text := range scenario.Steps {
		var step step
		if err := json.Unmarshal(text, &step); err != nil {
			t.Fatal(err)
		}
		hasExpect := strings.Contains(string(text), `"expect"`)
		if problem := w.runStep(&step, hasExpect); problem != "" {
			t.Fatalf("step %d, %s: %s", index+1, step.Do, problem)
		}
	}
}

// runStep returns what is wrong.
func (w *world) runStep(step *step, hasExpect bool) string {
	operation := operations[step.Do]
	if operation == nil {
		return "the runner does not know it"
	}
	on := step.On
	if on == "" {
		on = "sandbox"
	}
	fields := map[string]any{}
	for name, value := range step.With {
		fields[name] = resolve(value, w.values)
	}
	var target any
	if _, bound := w.values[strings.Split(on, ".")[0]]; bound {
		target = look(on, w.values)
	}
	result, err := operation(w, target, fields)
	if step.Error != nil {
		wanted := resolve(step.Error, w.values)
		if code, ok := wanted.(string); ok {
			wanted = map[string]any{"code": code}
		}
		if got := plainError(err); !matches(wanted, got) {
			return show(wanted) + " does not match " + show(got)
		}
		return ""
	}
	if err != nil {
		return err.Error()
	}
	if step.As != "" {
		w.values[step.As] = result
	}
	if hasExpect {
		wanted, got := resolve(step.Expect, w.values), plain(result)
		if !matches(wanted, got) {
			return show(wanted) + "\ndoes not match\n" + show(got)
		}
	}
	return ""
}

// plainError returns an error as scenarios have it.
func plainError(err error) any {
	if err == nil {
		return nil
	}
	var exit *CommandExitError
	var notStarted *CommandNotStartedError
	var lost *OutputLostError
	var own *Error
	switch {
	case errors.As(err, &exit):
		return map[string]any{
			"code": "command_exit", "exit_code": float64(exit.Result.ExitCode), "stdout": string(exit.Result.Stdout),
			"stderr": string(exit.Result.Stderr),
		}
	case errors.As(err, &notStarted):
		return map[string]any{"code": "command_not_started", "exit_code": float64(notStarted.ExitCode)}
	case errors.As(err, &lost):
		return map[string]any{"code": "output_lost"}
	case errors.As(err, &own):
		return map[string]any{"code": own.Code, "message": own.Message}
	case errors.Is(err, context.DeadlineExceeded):
		return map[string]any{"code": "timeout"}
	}
	return map[string]any{"code": "unknown", "message": err.Error()}
}
