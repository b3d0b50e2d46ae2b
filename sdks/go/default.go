package wrenn

import (
	"context"
	"iter"
)

// Create creates a sandbox, and waits until it runs. Server and key are found as the command line finds them.
func Create(ctx context.Context, options ...CreateOptions) (*Sandbox, error) {
	return defaultClient().Create(ctx, options...)
}

// GetOrCreate gets the living sandbox of a name, or creates it.
func GetOrCreate(ctx context.Context, name string, options ...CreateOptions) (*Sandbox, error) {
	return defaultClient().GetOrCreate(ctx, name, options...)
}

// Get gets a sandbox by id or name. One that is paused stays paused.
func Get(ctx context.Context, id string) (*Sandbox, error) { return defaultClient().Get(ctx, id) }

// Connect gets a sandbox by id or name, and resumes it if it is paused.
func Connect(ctx context.Context, id string) (*Sandbox, error) {
	return defaultClient().Connect(ctx, id)
}

// List lists sandboxes, newest first, page after page.
func List(ctx context.Context, filters ...Filter) iter.Seq2[SandboxInfo, error] {
	return defaultClient().List(ctx, filters...)
}

// Count counts sandboxes.
func Count(ctx context.Context, filters ...Filter) (int64, error) {
	return defaultClient().Count(ctx, filters...)
}

// Usage gets what sandboxes use now: those of the ids, or all that run or are paused.
func Usage(ctx context.Context, ids ...string) iter.Seq2[SandboxUsage, error] {
	return defaultClient().Usage(ctx, ids...)
}

// ListSnapshots lists the templates that were made of sandboxes.
func ListSnapshots(ctx context.Context) ([]TemplateInfo, error) {
	return defaultClient().ListSnapshots(ctx)
}

// GetSnapshot gets a snapshot.
func GetSnapshot(ctx context.Context, name string) (*TemplateInfo, error) {
	return defaultClient().GetSnapshot(ctx, name)
}

// DeleteSnapshot deletes a snapshot; false if it is not there.
func DeleteSnapshot(ctx context.Context, name string) (bool, error) {
	return defaultClient().DeleteSnapshot(ctx, name)
}

// ListTemplates lists what sandboxes are made from.
func ListTemplates(ctx context.Context) ([]TemplateInfo, error) {
	return defaultClient().ListTemplates(ctx)
}
