package wrenn

import (
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// waitSeconds is the time of one request that waits; longer waits are several.
const waitSeconds = 60

// closeTimeout is the time that Close may take.
const closeTimeout = time.Minute

// Sandbox is a virtual machine with commands, files and ports.
type Sandbox struct {
	Commands    *Commands
	Files       *Files
	Pty         *Pty
	Checkpoints *Checkpoints

	client *Client
	mutex  sync.Mutex
	known  SandboxInfo
}

func (c *Client) newSandbox(info *SandboxInfo) *Sandbox {
	commands := &Commands{client: c, sandboxID: info.ID}
	return &Sandbox{
		Commands:    commands,
		Files:       &Files{client: c, sandboxID: info.ID},
		Pty:         &Pty{commands: commands},
		Checkpoints: &Checkpoints{client: c, sandboxID: info.ID},
		client:      c,
		known:       *info,
	}
}

// CreateOptions say what sandbox is created. Every field has a default.
type CreateOptions struct {
	// Template that it is made from. Default minimal.
	Template string
	// Name, which stands for the id wherever one does.
	Name   string
	Labels map[string]string
	// Env is the environment of every process.
	Env map[string]string
	// Timeout is the time without activity until OnTimeout is done. Default 5 minutes.
	Timeout   time.Duration
	OnTimeout OnTimeout
	// NoAutoResume: only Resume resumes it once it is paused.
	NoAutoResume bool
	// EndsAt is the time at which it is stopped, whatever it does.
	EndsAt   time.Time
	VCPUs    int
	MemoryMB int
	DiskMB   int
	Network  *NetworkRules
	// PublicPorts: the address of a port is enough to use it.
	PublicPorts    bool
	AutoCheckpoint *AutoCheckpoint
	StartCommand   *SupervisedCommand
	// IdempotencyKey under which a create that comes again makes no second sandbox. Default: a new one.
	IdempotencyKey string
}

func (o *CreateOptions) fields() map[string]any {
	fields := map[string]any{}
	setIf(fields, "template", o.Template, o.Template != "")
	setIf(fields, "name", o.Name, o.Name != "")
	setIf(fields, "labels", o.Labels, o.Labels != nil)
	setIf(fields, "envs", o.Env, o.Env != nil)
	setIf(fields, "timeout_sec", ceilSeconds(o.Timeout), o.Timeout != 0)
	setIf(fields, "on_timeout", o.OnTimeout, o.OnTimeout != "")
	setIf(fields, "auto_resume", false, o.NoAutoResume)
	setIf(fields, "ends_at", o.EndsAt, !o.EndsAt.IsZero())
	setIf(fields, "vcpus", o.VCPUs, o.VCPUs != 0)
	setIf(fields, "memory_mb", o.MemoryMB, o.MemoryMB != 0)
	setIf(fields, "disk_mb", o.DiskMB, o.DiskMB != 0)
	setIf(fields, "network", o.Network, o.Network != nil)
	setIf(fields, "public_ports", true, o.PublicPorts)
	setIf(fields, "auto_checkpoint", o.AutoCheckpoint, o.AutoCheckpoint != nil)
	setIf(fields, "start_command", o.StartCommand, o.StartCommand != nil)
	return fields
}

// Create creates a sandbox, and waits until it runs.
func (c *Client) Create(ctx context.Context, options ...CreateOptions) (*Sandbox, error) {
	selected := firstOption(options)
	return c.create(ctx, &selected, selected.fields())
}

// GetOrCreate gets the living sandbox of a name, or creates it.
func (c *Client) GetOrCreate(ctx context.Context, name string, options ...CreateOptions) (*Sandbox, error) {
	selected := firstOption(options)
	selected.Name = name
	fields := selected.fields()
	fields["if_exists"] = IfExistsReturn
	return c.create(ctx, &selected, fields)
}

func (c *Client) create(ctx context.Context, options *CreateOptions, fields map[string]any) (*Sandbox, error) {
	request := &call{
		operation: "create_sandbox", body: fields, isRepeatable: true, isLong: true,
		header: http.Header{"Idempotency-Key": {firstOf(options.IdempotencyKey, randomID())}},
	}
	info, err := fetch[SandboxInfo](ctx, c, request)
	if err != nil {
		return nil, err
	}
	return c.newSandbox(info), nil
}

// Get gets a sandbox by id or name. One that is paused stays paused.
func (c *Client) Get(ctx context.Context, id string) (*Sandbox, error) {
	info, err := fetch[SandboxInfo](ctx, c, &call{operation: "get_sandbox", path: map[string]string{"id": id}})
	if err != nil {
		return nil, err
	}
	return c.newSandbox(info), nil
}

// Connect gets a sandbox by id or name, and resumes it if it is paused.
func (c *Client) Connect(ctx context.Context, id string) (*Sandbox, error) {
	sandbox, err := c.Get(ctx, id)
	if err == nil && sandbox.known.Status == SandboxStatusPaused {
		_, err = sandbox.Resume(ctx)
	}
	if err != nil {
		return nil, err
	}
	return sandbox, nil
}

// Filter selects sandboxes. All of its fields hold.
type Filter struct {
	// Labels that they have; AnyLabels have any value.
	Labels    map[string]string
	AnyLabels []string
	// Status of which they have one.
	Status     []SandboxStatus
	Template   string
	NamePrefix string
}

func (f *Filter) query() url.Values {
	query := url.Values{}
	for _, name := range slices.Sorted(maps.Keys(f.Labels)) {
		query.Add("label", name+"="+f.Labels[name])
	}
	for _, name := range f.AnyLabels {
		query.Add("label", name)
	}
	for _, status := range f.Status {
		query.Add("status", string(status))
	}
	if f.Template != "" {
		query.Set("template", f.Template)
	}
	if f.NamePrefix != "" {
		query.Set("name_prefix", f.NamePrefix)
	}
	return query
}

// List lists sandboxes, newest first, page after page.
func (c *Client) List(ctx context.Context, filters ...Filter) iter.Seq2[SandboxInfo, error] {
	filter := firstOption(filters)
	return pages[SandboxInfo](ctx, c, func(cursor string) *call {
		return &call{operation: "list_sandboxes", query: pageQuery(filter.query(), cursor)}
	})
}

func pageQuery(query url.Values, cursor string) url.Values {
	query.Set("limit", strconv.Itoa(pageSize))
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	return query
}

// Count counts sandboxes.
func (c *Client) Count(ctx context.Context, filters ...Filter) (int64, error) {
	filter := firstOption(filters)
	count, err := fetch[SandboxCount](ctx, c, &call{operation: "count_sandboxes", query: filter.query()})
	if err != nil {
		return 0, err
	}
	return count.Count, nil
}

// Usage gets what sandboxes use now: those of the ids, or all that run or are paused.
func (c *Client) Usage(ctx context.Context, ids ...string) iter.Seq2[SandboxUsage, error] {
	return pages[SandboxUsage](ctx, c, func(cursor string) *call {
		query := url.Values{"ids": {strings.Join(ids, ",")}}
		if len(ids) == 0 {
			query = pageQuery(url.Values{}, cursor)
		}
		return &call{operation: "get_usage", query: query}
	})
}

// ID returns the id of the sandbox.
func (s *Sandbox) ID() string { return s.Known().ID }

// Known returns what was known of the sandbox after the last call whose answer had it.
func (s *Sandbox) Known() SandboxInfo {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.known
}

func (s *Sandbox) path() map[string]string { return map[string]string{"id": s.ID()} }

// learn sends a request whose answer is what is known of the sandbox.
func (s *Sandbox) learn(ctx context.Context, request *call) (*SandboxInfo, error) {
	if request.path == nil {
		request.path = s.path()
	}
	info, err := fetch[SandboxInfo](ctx, s.client, request)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.known = *info
	return info, nil
}

// Info gets what is known of the sandbox.
func (s *Sandbox) Info(ctx context.Context) (*SandboxInfo, error) {
	return s.learn(ctx, &call{operation: "get_sandbox"})
}

// IsRunning returns true if the sandbox runs; false if it does not, or is not there.
func (s *Sandbox) IsRunning(ctx context.Context) (bool, error) {
	info, err := s.Info(ctx)
	if ok, err := falseIfMissing(err); !ok {
		return false, err
	}
	return info.Status == SandboxStatusRunning, nil
}

// UpdateOptions say what of a sandbox is changed. What is left out stays.
type UpdateOptions struct {
	// Name to give; an empty text takes the name away.
	Name *string
	// Labels to set; those that are nil are removed, and all others stay.
	Labels    map[string]*string
	Timeout   time.Duration
	OnTimeout OnTimeout
	// AutoResume: see CreateOptions.NoAutoResume.
	AutoResume *bool
	// EndsAt is the time at which it is stopped; the zero time: it does not end by itself.
	EndsAt *time.Time
}

// Update changes name, labels, end and settings about idleness.
func (s *Sandbox) Update(ctx context.Context, options UpdateOptions) (*SandboxInfo, error) {
	fields := map[string]any{}
	if options.Name != nil {
		fields["name"] = textOrNil(*options.Name)
	}
	setIf(fields, "labels", options.Labels, options.Labels != nil)
	setIf(fields, "timeout_sec", ceilSeconds(options.Timeout), options.Timeout != 0)
	setIf(fields, "on_timeout", options.OnTimeout, options.OnTimeout != "")
	setIf(fields, "auto_resume", options.AutoResume, options.AutoResume != nil)
	if options.EndsAt != nil {
		fields["ends_at"] = options.EndsAt
		if options.EndsAt.IsZero() {
			fields["ends_at"] = nil
		}
	}
	return s.learn(ctx, &call{operation: "update_sandbox", body: fields})
}

// SetTimeout changes the time without activity until OnTimeout is done.
func (s *Sandbox) SetTimeout(ctx context.Context, timeout time.Duration) error {
	_, err := s.Update(ctx, UpdateOptions{Timeout: timeout})
	return err
}

// Wait waits for a status, or for one of several, until ctx is done.
func (s *Sandbox) Wait(ctx context.Context, status ...SandboxStatus) (*SandboxInfo, error) {
	query := url.Values{}
	for _, wanted := range status {
		query.Add("status", string(wanted))
	}
	return s.waitFor(ctx, query)
}

// WaitDeleted waits until the sandbox is deleted, or ctx is done.
func (s *Sandbox) WaitDeleted(ctx context.Context) error {
	_, err := s.waitFor(ctx, url.Values{"deleted": {"true"}})
	_, err = falseIfMissing(err)
	return err
}

func (s *Sandbox) waitFor(ctx context.Context, query url.Values) (*SandboxInfo, error) {
	for {
		left := int64(waitSeconds)
		if deadline, ok := ctx.Deadline(); ok {
			left = max(1, min(left, ceilSeconds(time.Until(deadline))))
		}
		query.Set("timeout_sec", strconv.FormatInt(left, 10))
		info, err := fetch[SandboxInfo](ctx, s.client, &call{
			operation: "wait_for_sandbox", path: s.path(), query: query, isLong: true,
		})
		if ctx.Err() != nil && err != nil {
			return nil, contextError(ctx)
		}
		if !errors.Is(err, ErrTimeout) {
			return info, err
		}
	}
}

// KeepAlive counts as use: the time until the sandbox is idle begins again.
func (s *Sandbox) KeepAlive(ctx context.Context) error {
	return s.client.json(ctx, &call{operation: "keep_sandbox_alive", path: s.path()}, nil)
}

// Ping asks its guest whether it answers.
func (s *Sandbox) Ping(ctx context.Context) error {
	return s.client.json(ctx, &call{operation: "ping_sandbox", path: s.path()}, nil)
}

// Kill deletes the sandbox, with everything in it; false if it is not there.
func (s *Sandbox) Kill(ctx context.Context) (bool, error) {
	return falseIfMissing(s.client.json(ctx, &call{operation: "delete_sandbox", path: s.path(), isLong: true}, nil))
}

// Close deletes the sandbox, for defer. It takes a minute at most.
func (s *Sandbox) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := s.Kill(ctx)
	return err
}

// Pause saves memory and disk; nothing runs until it is resumed.
func (s *Sandbox) Pause(ctx context.Context) (*SandboxInfo, error) {
	return s.learn(ctx, &call{operation: "pause_sandbox", isLong: true})
}

// Resume goes on where it was paused.
func (s *Sandbox) Resume(ctx context.Context) (*SandboxInfo, error) {
	return s.learn(ctx, &call{operation: "resume_sandbox", isLong: true})
}

// Fork makes children that go on from its present state: all, or none.
func (s *Sandbox) Fork(ctx context.Context, count int) ([]*Sandbox, error) {
	infos, err := fetchAll[SandboxInfo](ctx, s.client, &call{
		operation: "fork_sandbox", path: s.path(), body: map[string]any{"count": count}, isRepeatable: true, isLong: true,
		header: http.Header{"Idempotency-Key": {randomID()}},
	})
	if err != nil {
		return nil, err
	}
	children := make([]*Sandbox, len(infos))
	for index := range infos {
		children[index] = s.client.newSandbox(&infos[index])
	}
	return children, nil
}

// UpdateNetwork replaces all of its network rules.
func (s *Sandbox) UpdateNetwork(ctx context.Context, rules NetworkRules) (*SandboxInfo, error) {
	return s.learn(ctx, &call{operation: "set_network", body: rules})
}

// Metrics gets what it used.
func (s *Sandbox) Metrics(ctx context.Context, options ...MetricsOptions) (*SandboxMetrics, error) {
	request := &call{operation: "get_sandbox_metrics", path: s.path(), query: metricsQuery(options)}
	return fetch[SandboxMetrics](ctx, s.client, request)
}

func metricsQuery(options []MetricsOptions) url.Values {
	selected := firstOption(options)
	query := url.Values{}
	for name, at := range map[string]time.Time{"from": selected.From, "to": selected.To} {
		if !at.IsZero() {
			query.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if selected.Step > 0 {
		query.Set("step", strconv.FormatInt(ceilSeconds(selected.Step), 10))
	}
	return query
}

// DiskUsage gets what it takes on disk.
func (s *Sandbox) DiskUsage(ctx context.Context) (*SandboxDiskUsage, error) {
	return fetch[SandboxDiskUsage](ctx, s.client, &call{operation: "get_sandbox_disk_usage", path: s.path()})
}

// LogOptions say what of a log is read.
type LogOptions struct {
	// Follow stays and reads what comes, until the sandbox is deleted or the context is done.
	Follow bool
}

// Logs reads its log, oldest first.
func (s *Sandbox) Logs(ctx context.Context, options ...LogOptions) iter.Seq2[LogEntry, error] {
	request := &call{operation: "logs", path: s.path()}
	if firstOption(options).Follow {
		request.query = url.Values{"follow": {"true"}}
	}
	return func(yield func(LogEntry, error) bool) {
		var opened io.ReadCloser
		opened, err := s.client.open(ctx, request)
		if err != nil {
			yield(LogEntry{}, err)
			return
		}
		jsonLines[LogEntry](opened)(yield)
	}
}
