package wrenn

import "context"

// Rollback goes back to a checkpoint, in memory and on disk.
func (s *Sandbox) Rollback(ctx context.Context, name string) (*SandboxInfo, error) {
	path := map[string]string{"id": s.ID(), "name": name}
	return s.learn(ctx, &call{operation: "rollback_sandbox", path: path, isLong: true})
}

// Undo goes back so many automatic checkpoints.
func (s *Sandbox) Undo(ctx context.Context, steps int) (*Undone, error) {
	count := int64(steps)
	return s.undo(ctx, UndoSandbox{Steps: &count})
}

// UndoTo goes back to any checkpoint by its name. The state before is saved, unlike with Rollback.
func (s *Sandbox) UndoTo(ctx context.Context, checkpoint string) (*Undone, error) {
	return s.undo(ctx, UndoSandbox{Checkpoint: &checkpoint})
}

func (s *Sandbox) undo(ctx context.Context, body UndoSandbox) (*Undone, error) {
	request := &call{operation: "undo_sandbox", path: s.path(), body: body, isLong: true}
	undone, err := fetch[Undone](ctx, s.client, request)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.known = undone.Sandbox
	return undone, nil
}

// History says where an undo goes, and what makes its steps.
func (s *Sandbox) History(ctx context.Context) (*History, error) {
	return fetch[History](ctx, s.client, &call{operation: "get_history", path: s.path()})
}

// SnapshotOptions say how a template is made of a sandbox.
type SnapshotOptions struct {
	// NoMemory: with the disk alone, so that sandboxes boot from it.
	NoMemory bool
	// Overwrite replaces a snapshot of that name.
	Overwrite bool
}

// CreateSnapshot makes a template of the sandbox, which goes on as it was. An empty name: one is made.
func (s *Sandbox) CreateSnapshot(ctx context.Context, name string, options ...SnapshotOptions) (*TemplateInfo, error) {
	selected := firstOption(options)
	body := map[string]any{"sandbox_id": s.ID()}
	setIf(body, "name", name, name != "")
	setIf(body, "memory", false, selected.NoMemory)
	setIf(body, "overwrite", true, selected.Overwrite)
	return fetch[TemplateInfo](ctx, s.client, &call{operation: "create_snapshot", body: body, isLong: true})
}

// Checkpoints are saved states of a sandbox to roll back to.
type Checkpoints struct {
	client    *Client
	sandboxID string
}

// Create saves the present state. The sandbox goes on as it was. An empty name: one is made.
func (c *Checkpoints) Create(ctx context.Context, name string) (*CheckpointInfo, error) {
	return fetch[CheckpointInfo](ctx, c.client, &call{
		operation: "create_checkpoint", path: map[string]string{"id": c.sandboxID}, isLong: true,
		body: CreateCheckpoint{Name: textOrNil(name)},
	})
}

// List lists them, oldest first.
func (c *Checkpoints) List(ctx context.Context) ([]CheckpointInfo, error) {
	request := &call{operation: "list_checkpoints", path: map[string]string{"id": c.sandboxID}}
	return fetchAll[CheckpointInfo](ctx, c.client, request)
}

// Delete deletes one; false if it is not there.
func (c *Checkpoints) Delete(ctx context.Context, name string) (bool, error) {
	request := &call{operation: "delete_checkpoint", path: map[string]string{"id": c.sandboxID, "name": name}}
	return falseIfMissing(c.client.json(ctx, request, nil))
}

// SetAuto has the host make checkpoints by itself.
func (c *Checkpoints) SetAuto(ctx context.Context, policy AutoCheckpoint) error {
	request := &call{operation: "set_auto_checkpoint", path: map[string]string{"id": c.sandboxID}, body: policy}
	return c.client.json(ctx, request, nil)
}

// RemoveAuto makes no more of them. Those that there are stay.
func (c *Checkpoints) RemoveAuto(ctx context.Context) error {
	request := &call{operation: "remove_auto_checkpoint", path: map[string]string{"id": c.sandboxID}}
	return c.client.json(ctx, request, nil)
}

// ListSnapshots lists the templates that were made of sandboxes.
func (c *Client) ListSnapshots(ctx context.Context) ([]TemplateInfo, error) {
	return fetchAll[TemplateInfo](ctx, c, &call{operation: "list_snapshots"})
}

// GetSnapshot gets a snapshot.
func (c *Client) GetSnapshot(ctx context.Context, name string) (*TemplateInfo, error) {
	return fetch[TemplateInfo](ctx, c, &call{operation: "get_snapshot", path: map[string]string{"name": name}})
}

// DeleteSnapshot deletes a snapshot; false if it is not there.
func (c *Client) DeleteSnapshot(ctx context.Context, name string) (bool, error) {
	request := &call{operation: "delete_snapshot", path: map[string]string{"name": name}}
	return falseIfMissing(c.json(ctx, request, nil))
}

// ListTemplates lists what sandboxes are made from.
func (c *Client) ListTemplates(ctx context.Context) ([]TemplateInfo, error) {
	return fetchAll[TemplateInfo](ctx, c, &call{operation: "list_templates"})
}
