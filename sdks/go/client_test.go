package wrenn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRequestHasKeyAndAgent(t *testing.T) {
	fake := newFake(t)
	client := fake.client(ClientOptions{Header: http.Header{"Traceparent": {"00-1"}}})
	sandbox, err := client.Get(t.Context(), testID)
	noError(t, err)
	equal(t, sandbox.Known().MemoryMB, 512)
	request := fake.asked[0]
	equal(t, request.line, "GET /v1/sandboxes/"+testID)
	equal(t, request.header.Get("X-Api-Key"), "wrn_test")
	equal(t, request.header.Get("Traceparent"), "00-1")
	equal(t, request.header.Get("User-Agent"), userAgent)
}

func TestPathSegmentsAreEscaped(t *testing.T) {
	fake := newFake(t)
	_, err := fake.client().Get(t.Context(), "a/b?c")
	noError(t, err)
	for _, id := range []string{"", ".", ".."} {
		_, err := fake.client().Get(t.Context(), id)
		want(t, err, ErrInvalidRequest)
	}
	equal(t, joined(fake.lines()), "GET /v1/sandboxes/a%2Fb%3Fc")
}

func TestEveryCodeHasItsError(t *testing.T) {
	all := []*Error{
		ErrInvalidRequest, ErrUnauthorized, ErrForbidden, ErrNotFound, ErrMethodNotAllowed, ErrInvalidState, ErrConflict,
		ErrExpired, ErrTooLarge, ErrUnsupportedMediaType, ErrIdempotencyMismatch, ErrResourceExhausted, ErrInternal,
		ErrAgent, ErrHostUnavailable, ErrTimeout, ErrInsufficientStorage,
	}
	for _, target := range all {
		answer := refusal(418, target.Code)
		answer.header = map[string]string{"X-Request-Id": "r-1"}
		_, err := newFake(t, answer).client().Get(t.Context(), testID)
		want(t, err, target)
		var own *Error
		if !errors.As(err, &own) || own.Status != 418 || own.RequestID != "r-1" {
			t.Fatal(own)
		}
		equal(t, err.Error(), "wrenn: refused with "+target.Code)
	}
	page := newFake(t, reply{status: 404, text: "<html>"})
	_, err := page.client().Get(t.Context(), testID)
	want(t, err, ErrNotFound)
	_, err = newFake(t, reply{text: "hello"}).client().Get(t.Context(), testID)
	want(t, err, ErrProtocol)
	if !strings.Contains(err.Error(), "same version") {
		t.Fatal(err)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	fake := newFake(t, reply{status: 302, header: map[string]string{"Location": "/elsewhere"}})
	_, err := fake.client().Get(t.Context(), testID)
	want(t, err, ErrProtocol)
	equal(t, len(fake.lines()), 1)
}

func TestUnavailableHostIsAskedAgain(t *testing.T) {
	busy := refusal(503, "host_unavailable")
	fake := newFake(t, busy, busy, reply{status: 201, text: testInfo})
	_, err := fake.client().Create(t.Context(), CreateOptions{
		Labels: map[string]string{"aB": "c"}, Timeout: 1500 * time.Millisecond, NoAutoResume: true, PublicPorts: true,
		EndsAt: time.Unix(0, 0).UTC(), OnTimeout: OnTimeoutKill, DiskMB: 1, Network: &NetworkRules{AllowOut: []string{"a"}},
	})
	noError(t, err)
	equal(t, len(fake.asked), 3)
	equal(t, fake.asked[0].header.Get("Idempotency-Key"), fake.asked[2].header.Get("Idempotency-Key"))
	var body map[string]any
	noError(t, json.Unmarshal([]byte(fake.asked[2].body), &body))
	equal(t, fmt.Sprint(body), "map[auto_resume:false disk_mb:1 ends_at:1970-01-01T00:00:00Z labels:map[aB:c] "+
		"network:map[allow_out:[a]] on_timeout:kill public_ports:true timeout_sec:2]")

	never := newFake(t, busy)
	_, err = never.client(ClientOptions{Retries: 1}).Get(t.Context(), testID)
	want(t, err, ErrHostUnavailable)
	equal(t, len(never.asked), 2)
	_, err = never.client(ClientOptions{Retries: -1}).Get(t.Context(), testID)
	want(t, err, ErrHostUnavailable)
	equal(t, len(never.asked), 3)
}

func TestRetryAfterIsObeyed(t *testing.T) {
	slow := refusal(429, "resource_exhausted")
	slow.header = map[string]string{"Retry-After": "1"}
	began := time.Now()
	_, err := newFake(t, slow, reply{text: testInfo}).client().Get(t.Context(), testID)
	noError(t, err)
	if time.Since(began) < time.Second {
		t.Fatal("it did not wait")
	}
	slow.header = map[string]string{"Retry-After": "100"}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = newFake(t, slow).client().Get(ctx, testID)
	want(t, err, ErrResourceExhausted)
}

func TestCutReadsAndCreatesAreRepeated(t *testing.T) {
	for _, cut := range []string{"before", "after", "half"} {
		fake := newFake(t, reply{cut: cut, text: testInfo}, reply{text: testInfo})
		_, err := fake.client().Get(t.Context(), testID)
		noError(t, err)
		fake.replies = []reply{{cut: cut, text: testInfo}, {text: testInfo}}
		_, err = fake.client().Create(t.Context())
		noError(t, err)
	}
}

func TestCutChangeIsNotRepeated(t *testing.T) {
	fake := newFake(t, reply{cut: "after"})
	_, err := fake.sandbox().CreateSnapshot(t.Context(), "a")
	want(t, err, ErrConnectionBroken)
	equal(t, len(fake.lines()), 1)
	page := newFake(t, reply{status: 502, text: "bad gateway"})
	_, err = page.sandbox().CreateSnapshot(t.Context(), "a")
	want(t, err, ErrAgent)
	equal(t, len(page.lines()), 1)
}

func TestRepeatedDeleteThatFindsNothingIsDone(t *testing.T) {
	fake := newFake(t, reply{cut: "after"}, refusal(404, "not_found"))
	killed, err := fake.sandbox().Kill(t.Context())
	noError(t, err)
	equal(t, killed, true)
	killed, err = fake.sandbox().Kill(t.Context())
	noError(t, err)
	equal(t, killed, false)
	fake.replies = []reply{{status: 502, text: "of a proxy"}, refusal(404, "not_found")}
	killed, err = fake.sandbox().Kill(t.Context())
	noError(t, err)
	equal(t, killed, true)
	// Nothing was done at the first attempt.
	fake.replies = []reply{refusal(429, "resource_exhausted"), refusal(404, "not_found")}
	killed, err = fake.sandbox().Kill(t.Context())
	noError(t, err)
	equal(t, killed, false)
}

func TestMissingFileIsFalseAndMissingSandboxAnError(t *testing.T) {
	fake := newFake(t, refusal(404, "not_found"), reply{text: testInfo})
	is, err := fake.sandbox().Files.Exists(t.Context(), "a")
	noError(t, err)
	equal(t, is, false)
	fake.replies = []reply{refusal(404, "not_found")}
	_, err = fake.sandbox().Files.Exists(t.Context(), "a")
	want(t, err, ErrNotFound)
}

func TestForeignAnswerHasCodeOfStatus(t *testing.T) {
	codes := map[int]*Error{
		409: ErrConflict, 410: ErrExpired, 415: ErrUnsupportedMediaType, 507: ErrInsufficientStorage, 418: ErrInternal,
	}
	for status, target := range codes {
		_, err := newFake(t, reply{status: status, text: "<html>"}).sandbox().Info(t.Context())
		want(t, err, target)
	}
}

func TestRequestThatWasNotSentIsUnreachable(t *testing.T) {
	fake := newFake(t)
	secure := httptest.NewTLSServer(fake.Config.Handler)
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	refusing := newFake(t, reply{status: 403, text: "no"})
	for _, proxy := range []string{"", "http://127.0.0.1:1", refusing.URL} {
		transport := &http.Transport{}
		if proxy != "" {
			address, err := url.Parse(proxy)
			noError(t, err)
			transport.Proxy = http.ProxyURL(address)
		}
		client := NewClient(ClientOptions{
			APIURL: secure.URL, APIKey: "wrn_test", Retries: -1, HTTPClient: &http.Client{Transport: transport},
		})
		// By POST, which may be sent again only where it was not sent.
		err := client.newSandbox(&SandboxInfo{ID: testID}).SetTimeout(t.Context(), time.Minute)
		want(t, err, ErrUnreachable)
	}
	equal(t, len(fake.lines()), 0)
}

type wrapped struct{ http.RoundTripper }

func TestWrappedDefaultTransportIsLeftAlone(t *testing.T) {
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	http.DefaultTransport = wrapped{before}
	if _, ok := newTransport().(*http.Transport); !ok {
		t.Fatal("not a transport of its own")
	}
}

func TestWaitForOutputIsBesideTimeOfCall(t *testing.T) {
	request := &call{operation: "read_command_output", wait: time.Minute}
	for limit, wanted := range map[time.Duration]time.Duration{0: 2 * time.Minute, time.Second: time.Second} {
		budget := NewClient(ClientOptions{Timeout: limit}).budget(t.Context(), request)
		equal(t, budget.limit, wanted)
		budget.close()
	}
}

func TestWebhookGetsAllEventsAgain(t *testing.T) {
	fake := newFake(t, reply{text: `{}`})
	_, err := fake.client().Webhooks.Update(t.Context(), "w", UpdateWebhook{Events: []string{}})
	noError(t, err)
	_, err = fake.client().Webhooks.Update(t.Context(), "w", UpdateWebhook{})
	noError(t, err)
	equal(t, fake.asked[0].body+fake.asked[1].body, `{"events":[]}{}`)
}

func TestUndoGoesToCheckpoint(t *testing.T) {
	fake := newFake(t, reply{text: `{"sandbox":` + testInfo + `}`})
	_, err := fake.sandbox().UndoTo(t.Context(), "a")
	noError(t, err)
	_, err = fake.sandbox().Undo(t.Context(), 2)
	noError(t, err)
	equal(t, fake.asked[0].body+fake.asked[1].body, `{"checkpoint":"a"}{"steps":2}`)
}

func TestOldestOutputIsDroppedFirst(t *testing.T) {
	handle := newHandle(nil)
	handle.keep(Output{Stderr, make([]byte, maxKept-1)})
	handle.keep(Output{Stdout, make([]byte, 2)})
	equal(t, len(handle.joined(Stderr)), 0)
	equal(t, len(handle.joined(Stdout)), 2)
}

func TestSilentEventStreamConnectsAgain(t *testing.T) {
	fake := newFake(t)
	attempts := 0
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		if attempts++; attempts == 1 {
			_, _ = io.WriteString(w, ": hello\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "data: {\"cursor\":\"7\"}\n\n")
	}
	stream := &EventStream{client: fake.client(), silence: 100 * time.Millisecond}
	stream.patience.limit = time.Minute
	stream.ctx, stream.cancel = context.WithCancel(t.Context())
	defer stream.Close()
	event, err := stream.Next()
	noError(t, err)
	equal(t, event.Cursor, "7")
	equal(t, len(fake.lines()), 2)
}

func TestSilentServerIsTimeout(t *testing.T) {
	fake := newFake(t)
	fake.handle = func(_ http.ResponseWriter, r *http.Request, _ string) { <-r.Context().Done() }
	err := fake.sandbox(ClientOptions{Timeout: 50 * time.Millisecond}).Ping(t.Context())
	want(t, err, ErrTimeout)
	want(t, err, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	want(t, fake.sandbox().Ping(ctx), ErrTimeout)
	cancelled, stop := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, stop)
	want(t, fake.sandbox(ClientOptions{Timeout: -1}).Ping(cancelled), context.Canceled)
	waiting, stopWaiting := context.WithCancel(t.Context())
	slow := refusal(429, "resource_exhausted")
	slow.header = map[string]string{"Retry-After": "30"}
	time.AfterFunc(50*time.Millisecond, stopWaiting)
	want(t, newFake(t, slow).sandbox().Ping(waiting), context.Canceled)
}

func TestNoServerIsUnreachable(t *testing.T) {
	fake := newFake(t)
	sandbox := fake.sandbox(ClientOptions{Retries: 1, HTTPClient: &http.Client{}})
	fake.Server.Close()
	err := sandbox.Ping(t.Context())
	want(t, err, ErrUnreachable)
	if !strings.Contains(err.Error(), "wrenn up") {
		t.Fatal(err)
	}
	_, err = sandbox.Commands.Run(t.Context(), "true")
	want(t, err, ErrUnreachable)
}

func TestReorderedAnswersReachTheirCalls(t *testing.T) {
	fake := newFake(t)
	var all sync.WaitGroup
	all.Add(3)
	last := make(chan struct{}, 3)
	fake.handle = func(w http.ResponseWriter, r *http.Request, _ string) {
		id := filepath.Base(r.URL.Path)
		all.Done()
		all.Wait()
		// c first, then b, then a.
		for range "cba"[:strings.Index("cba", id)] {
			<-last
		}
		_, _ = io.WriteString(w, strings.Replace(testInfo, testID, id, 1))
		for range "cba" {
			select {
			case last <- struct{}{}:
			default:
			}
		}
	}
	client := fake.client()
	found := make(chan string, 3)
	for _, id := range []string{"a", "b", "c"} {
		go func() {
			sandbox, err := client.Get(context.Background(), id)
			if err != nil || sandbox.ID() != id {
				found <- fmt.Sprint(err, id)
				return
			}
			found <- ""
		}()
	}
	for range 3 {
		equal(t, <-found, "")
	}
}

func TestCallsReachTheirRoutes(t *testing.T) {
	name := ""
	none := time.Time{}
	cases := []struct {
		do      func(ctx context.Context, s *Sandbox, c *Client) error
		request string
		body    string
	}{
		{func(ctx context.Context, _ *Sandbox, c *Client) error {
			_, err := c.HostMetrics(ctx, MetricsOptions{From: time.Unix(0, 0), Step: 5 * time.Second})
			return err
		}, "GET /v1/hosts/metrics?from=1970-01-01T00%3A00%3A00Z&step=5", ""},
		{func(ctx context.Context, _ *Sandbox, c *Client) error {
			_, err := c.Count(ctx, Filter{Labels: map[string]string{"b": "2", "a": "1="}, AnyLabels: []string{"c"}, Template: "t"})
			return err
		}, "GET /v1/sandboxes/count?label=a%3D1%3D&label=b%3D2&label=c&template=t", ""},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			_, err := s.Update(ctx, UpdateOptions{Name: &name, EndsAt: &none, OnTimeout: OnTimeoutKill})
			return err
		}, "PATCH /v1/sandboxes/" + testID, `{"ends_at":null,"name":null,"on_timeout":"kill"}`},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			_, err := s.CreateSnapshot(ctx, "s", SnapshotOptions{NoMemory: true, Overwrite: true})
			return err
		}, "POST /v1/snapshots", `{"memory":false,"name":"s","overwrite":true,"sandbox_id":"` + testID + `"}`},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			options := DiffOptions{From: "a", To: "b", Path: "/c", Patches: true, Limit: 5, Timeout: 1500 * time.Millisecond}
			diff, err := s.Diff(ctx, options)
			if err == nil {
				err = diff.Close()
			}
			return err
		}, "GET /v1/sandboxes/" + testID + "/diff?from=a&limit=5&patches=true&path=%2Fc&timeout_sec=2&to=b", ""},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			_, err := s.Commands.ReadOutput(ctx, "7", ReadOutputOptions{Offset: 5, Stream: Stderr, Wait: time.Second})
			return err
		}, "GET /v1/sandboxes/" + testID + "/commands/7/output?offset=5&stream=stderr&wait=1", ""},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			_, err := s.Files.Chown(ctx, "a", "user", "", FileOptions{User: "root", Recursive: true})
			return err
		}, "POST /v1/sandboxes/" + testID + "/files/chown", `{"owner":"user","path":"a","recursive":true,"user":"root"}`},
		{func(ctx context.Context, s *Sandbox, _ *Client) error {
			reader, err := s.Files.ReadArchive(ctx, "d", FileOptions{User: "root", SingleFile: true})
			if err == nil {
				err = reader.Close()
			}
			return err
		}, "GET /v1/sandboxes/" + testID + "/files/archive?path=d&single_file=true&user=root", ""},
		{func(ctx context.Context, _ *Sandbox, c *Client) error {
			_, err := collect(c.Usage(ctx))
			return err
		}, "GET /v1/sandboxes/metrics?limit=1000", ""},
		{func(ctx context.Context, _ *Sandbox, c *Client) error {
			_, err := collect(c.Webhooks.ListDeliveries(ctx, "w", DeliveryStatusDead))
			return err
		}, "GET /v1/webhooks/w/deliveries?limit=1000&status=dead", ""},
	}
	for _, one := range cases {
		fake := newFake(t)
		// Lists are no objects: what is asked is what is tested here.
		_ = one.do(t.Context(), fake.sandbox(), fake.client())
		equal(t, fake.asked[0].line, one.request)
		equal(t, fake.asked[0].body, one.body)
	}
}

func TestEveryOperationIsUsed(t *testing.T) {
	sources, err := filepath.Glob("*.go")
	noError(t, err)
	var text bytes.Buffer
	for _, name := range sources {
		if name != "models.go" && !strings.HasSuffix(name, "_test.go") {
			source, err := os.ReadFile(name)
			noError(t, err)
			text.Write(source)
		}
	}
	// Routes that another one stands for, and those which no SDK has: their rows in sdks/README.md are empty.
	aliases := regexp.MustCompile("^(delete_image|exec|get_image|import_image|kill_process|list_processes|openapi_yaml|prune_images|pull_image|read_file|ready|stream_process|write_file)$")
	for name := range routes {
		if !aliases.MatchString(name) && !strings.Contains(text.String(), `"`+name+`"`) {
			t.Error(name + " has no call")
		}
	}
}

func TestListsTurnAllPages(t *testing.T) {
	next := map[string]string{"X-Next-Cursor": "c1"}
	fake := newFake(t, reply{text: `[{"path":"/a"}]`, header: next}, reply{text: `[{"path":"/b"}]`})
	entries, err := fake.sandbox().Files.List(t.Context(), "/")
	noError(t, err)
	equal(t, len(entries), 2)
	if !strings.Contains(fake.asked[1].body, `"cursor":"c1"`) {
		t.Fatal(fake.asked[1].body)
	}
	for range newFake(t, refusal(403, "forbidden")).client().List(t.Context()) {
		break
	}
	_, err = collect(newFake(t, refusal(403, "forbidden")).client().List(t.Context()))
	want(t, err, ErrForbidden)
}

func TestMissingThingsAreFalse(t *testing.T) {
	fake := newFake(t, refusal(404, "not_found"))
	s, c, ctx := fake.sandbox(), fake.client(), t.Context()
	calls := []func() (bool, error){
		func() (bool, error) { return s.IsRunning(ctx) },
		func() (bool, error) { return s.Commands.Kill(ctx, "c") },
		func() (bool, error) { return s.Checkpoints.Delete(ctx, "c") },
		func() (bool, error) { return c.DeleteSnapshot(ctx, "s") },
		func() (bool, error) { return c.Webhooks.Delete(ctx, "w") },
	}
	for _, do := range calls {
		is, err := do()
		noError(t, err)
		equal(t, is, false)
	}
	noError(t, s.WaitDeleted(ctx))
	noError(t, s.Close())
	fake.replies = []reply{refusal(403, "forbidden")}
	for _, do := range calls {
		_, err := do()
		want(t, err, ErrForbidden)
	}
	failing := []func() error{
		func() error { _, err := c.OpenAPI(ctx); return err },
		func() error { _, err := c.Connect(ctx, "a"); return err },
		func() error { _, err := s.Fork(ctx, 1); return err },
		func() error { _, err := s.Undo(ctx, 1); return err },
		func() error { _, err := c.Count(ctx); return err },
		func() error { _, err := s.URL(ctx, 1); return err },
		func() error { _, err := s.Commands.List(ctx); return err },
		func() error { _, err := s.Commands.ReadOutput(ctx, "c"); return err },
		func() error { _, err := s.Files.Read(ctx, "a"); return err },
		func() error { _, err := s.Files.MakeDir(ctx, "a"); return err },
		func() error { return s.Files.Download(ctx, "a", io.Discard) },
		func() error { return s.Files.WriteFiles(ctx, []FileEntry{{Path: "a", Data: strings.NewReader("")}}) },
		func() error { _, err := c.Events.Stream(ctx); return err },
		func() error { _, err := collect(s.Logs(ctx)); return err },
		func() error { _, err := s.Files.Search(ctx, "/", SearchOptions{}); return err },
	}
	for _, do := range failing {
		want(t, do(), ErrForbidden)
	}
}

func TestWaitAsksAgainUntilItsEnd(t *testing.T) {
	late := refusal(504, "timeout")
	info, err := newFake(t, late, late, reply{text: testInfo}).sandbox().Wait(t.Context(), SandboxStatusRunning)
	noError(t, err)
	equal(t, info.ID, testID)
}

// environment sets what settings depend on, and writes a credentials file if there is text for one.
func environment(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("WRENN_API_URL", "")
	t.Setenv("WRENN_API_KEY", "")
	t.Setenv("WRENN_DIR", dir)
	if text != "" {
		noError(t, os.WriteFile(filepath.Join(dir, "credentials"), []byte(text), 0o600))
	}
	return dir
}

func TestFileIsReadAsAShellWould(t *testing.T) {
	environment(t, "# a comment\n\nexport WRENN_API_URL=\"http://127.0.0.1:7/\"\r\nOTHER=1\nWRENN_API_KEY='wrn_file'\n")
	found, err := loadSettings("", "")
	noError(t, err)
	equal(t, found.url.String(), "http://127.0.0.1:7")
	equal(t, found.key, "wrn_file")
	t.Setenv("WRENN_API_KEY", "wrn_env")
	found, err = loadSettings("", "")
	noError(t, err)
	equal(t, found.key, "wrn_env")
	found, err = loadSettings("http://other", " wrn_given\n")
	noError(t, err)
	equal(t, found.url.Host+found.key, "otherwrn_given")
}

func TestKeyOfFileStaysOnThisMachine(t *testing.T) {
	environment(t, "WRENN_API_URL=http://127.0.0.1:1\nWRENN_API_KEY=wrn_file\n")
	for _, address := range []string{"https://wrenn.example", "http://localhost.example", "http://a@127.0.0.1", "http://%"} {
		_, err := loadSettings(address, "")
		want(t, err, ErrCredentials)
	}
	for _, address := range []string{"http://127.0.0.1:1", "http://localhost:9", "http://[::1]"} {
		_, err := loadSettings(address, "")
		noError(t, err)
	}
}

func TestWrongSettingsSayWhatToDo(t *testing.T) {
	dir := environment(t, "")
	_, err := NewClient().Health(t.Context())
	want(t, err, ErrCredentials)
	if !strings.Contains(err.Error(), filepath.Join(dir, "credentials")) {
		t.Fatal(err)
	}
	_, err = NewClient().newSandbox(&SandboxInfo{ID: "a"}).Commands.Run(t.Context(), "true")
	want(t, err, ErrCredentials)
	for _, wrong := range [][2]string{{"ftp://a", "wrn_1"}, {"nonsense", "wrn_1"}, {"http://a", "wrn 1"}, {"http://%", "k"}} {
		_, err := loadSettings(wrong[0], wrong[1])
		want(t, err, ErrCredentials)
	}
	if _, err := loadSettings("https://me:secret@host", "wrn_1"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Fatal(err)
	}
	environment(t, "A=b\nwrn_1\n")
	if _, err := loadSettings("", ""); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Fatal(err)
	}
	noError(t, os.Mkdir(filepath.Join(dir, "credentials"), 0o700))
	t.Setenv("WRENN_DIR", dir)
	if _, err := loadSettings("", ""); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Fatal(err)
	}
	found, err := loadSettings("", "wrn_1")
	noError(t, err)
	equal(t, found.url.String(), defaultURL)
}

func TestPackageFunctionsUseFoundServer(t *testing.T) {
	fake := newFake(t)
	environment(t, "WRENN_API_URL="+fake.URL+"\nWRENN_API_KEY=wrn_file\n")
	before := defaultClient
	defer func() { defaultClient = before }()
	defaultClient = sync.OnceValue(func() *Client { return NewClient() })
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := Create(ctx); return err },
		func() error { _, err := GetOrCreate(ctx, "n"); return err },
		func() error { _, err := Get(ctx, "n"); return err },
		func() error { _, err := Connect(ctx, "n"); return err },
		func() error { _, err := Count(ctx); return err },
		func() error { _, err := GetSnapshot(ctx, "n"); return err },
		func() error { _, err := DeleteSnapshot(ctx, "n"); return err },
	} {
		noError(t, do())
	}
	fake.replies = []reply{{text: "[]"}}
	for _, do := range []func() error{
		func() error { _, err := collect(List(ctx)); return err },
		func() error { _, err := collect(Usage(ctx, "a")); return err },
		func() error { _, err := ListSnapshots(ctx); return err },
		func() error { _, err := ListTemplates(ctx); return err },
	} {
		noError(t, do())
	}
	equal(t, fake.asked[0].header.Get("X-Api-Key"), "wrn_file")
}
