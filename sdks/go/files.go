package wrenn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
)

// pageSize is the number of entries of a page.
const pageSize = 1000

// Files are the files of a sandbox. A path is absolute, or starts at the working directory of the
// image's configuration, without one at the user's home.
type Files struct {
	client    *Client
	sandboxID string
}

// FileOptions say as whom files are used.
type FileOptions struct {
	// User in the guest. Default: that of the template.
	User string
	// Recursive: also all that is below a directory (Chmod, Chown, WatchDir).
	Recursive bool
	// NoOverwrite leaves a destination that is there alone (Rename).
	NoOverwrite bool
	// SingleFile: the path is a file, which is the only entry of the archive, without its holes.
	SingleFile bool
}

// WriteOptions say how a file is written.
type WriteOptions struct {
	User string
	// Mode has the permission bits. Default 0644.
	Mode uint32
	// SHA256 of the whole file in hexadecimal digits, which is checked before the file gets its place (Upload).
	SHA256 string
}

// ListOptions say what of a directory is listed.
type ListOptions struct {
	User string
	// Depth is the number of levels below the directory. Default 1, at most 32.
	Depth int
}

// FileEntry is a file to write.
type FileEntry struct {
	Path string
	Data io.Reader
	WriteOptions
}

func (f *Files) path() map[string]string { return map[string]string{"id": f.sandboxID} }

func (f *Files) request(operation string, body any) *call {
	return &call{operation: operation, path: f.path(), body: body}
}

func pathRequest(path string, options []FileOptions) PathRequest {
	return PathRequest{Path: path, User: textOrNil(firstOption(options).User)}
}

func textOrNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func trueOrNil(value bool) *bool {
	if !value {
		return nil
	}
	return &value
}

// Read reads a file whole.
func (f *Files) Read(ctx context.Context, path string, options ...FileOptions) ([]byte, error) {
	var data []byte
	request := f.request("stream_read_file", pathRequest(path, options))
	request.isData = true
	if err := f.client.json(ctx, request, &data); err != nil {
		return nil, err
	}
	return data, nil
}

// Open opens a file for reading as it comes, of any size.
func (f *Files) Open(ctx context.Context, path string, options ...FileOptions) (io.ReadCloser, error) {
	return f.open(ctx, f.request("stream_read_file", pathRequest(path, options)))
}

func (f *Files) open(ctx context.Context, request *call) (io.ReadCloser, error) {
	request.isData = true
	opened, err := f.client.open(ctx, request)
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Download copies a file to a writer.
func (f *Files) Download(ctx context.Context, path string, writer io.Writer, options ...FileOptions) error {
	reader, err := f.Open(ctx, path, options...)
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = io.Copy(writer, reader)
	return err
}

// Write writes a file from a reader, and makes its parents. Readers of bytes and strings are sent again
// when the server has refused them for now; others are sent as they come, and once. After a break nothing is sent again:
// see Upload.
func (f *Files) Write(ctx context.Context, path string, data io.Reader, options ...WriteOptions) error {
	selected := firstOption(options)
	fields := [][2]string{{"path", path}}
	if selected.User != "" {
		fields = append(fields, [2]string{"user", selected.User})
	}
	if selected.Mode != 0 {
		fields = append(fields, [2]string{"mode", fmt.Sprintf("%04o", selected.Mode&0o7777)})
	}
	request := f.request("stream_write_file", nil)
	source := newSource(data)
	setForm(request, fields, source)
	return source.close(f.client.json(ctx, request, nil))
}

func randomID() string {
	bytes := make([]byte, 16)
	_, _ = rand.Read(bytes)
	return hex.EncodeToString(bytes)
}

// WriteFiles writes several files, one after the other.
func (f *Files) WriteFiles(ctx context.Context, entries []FileEntry) error {
	for _, entry := range entries {
		if err := f.Write(ctx, entry.Path, entry.Data, entry.WriteOptions); err != nil {
			return err
		}
	}
	return nil
}

// List lists a directory, by the bytes of the names. For directories of any length see Scan.
func (f *Files) List(ctx context.Context, path string, options ...ListOptions) ([]FileInfo, error) {
	return collect(f.Scan(ctx, path, options...))
}

// Scan lists a directory page by page. What is there during the whole listing is listed exactly once.
func (f *Files) Scan(ctx context.Context, path string, options ...ListOptions) iter.Seq2[FileInfo, error] {
	selected := firstOption(options)
	limit := int64(pageSize)
	body := ListFilesRequest{Path: path, User: textOrNil(selected.User), Limit: &limit}
	if selected.Depth != 0 {
		depth := int64(selected.Depth)
		body.Depth = &depth
	}
	return pages[FileInfo](ctx, f.client, func(cursor string) *call {
		body.Cursor = textOrNil(cursor)
		return f.request("list_files", body)
	})
}

// pages iterates over the entries of all pages of a list.
func pages[T any](ctx context.Context, c *Client, request func(cursor string) *call) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for cursor, isFirst := "", true; isFirst || cursor != ""; isFirst = false {
			var entries []T
			header, err := c.page(ctx, request(cursor), &entries)
			if err != nil {
				yield(none, err)
				return
			}
			for _, entry := range entries {
				if !yield(entry, nil) {
					return
				}
			}
			cursor = header.Get("X-Next-Cursor")
		}
	}
}

func collect[T any](items iter.Seq2[T, error]) ([]T, error) {
	found := []T{}
	for item, err := range items {
		if err != nil {
			return nil, err
		}
		found = append(found, item)
	}
	return found, nil
}

// Exists returns true if something is there. A sandbox that is gone is an error.
func (f *Files) Exists(ctx context.Context, path string, options ...FileOptions) (bool, error) {
	_, err := f.Info(ctx, path, options...)
	if errors.Is(err, ErrNotFound) {
		// So that a sandbox that is gone is not taken for a file that is.
		return false, f.client.json(ctx, &call{operation: "get_sandbox", path: f.path()}, nil)
	}
	return err == nil, err
}

// Info gets what is there.
func (f *Files) Info(ctx context.Context, path string, options ...FileOptions) (*FileInfo, error) {
	return fetch[FileInfo](ctx, f.client, f.request("stat_file", pathRequest(path, options)))
}

// MakeDir makes a directory and its parents; false if it is there.
func (f *Files) MakeDir(ctx context.Context, path string, options ...FileOptions) (bool, error) {
	err := f.client.json(ctx, f.request("make_directory", pathRequest(path, options)), nil)
	if errors.Is(err, ErrConflict) {
		if info, infoErr := f.Info(ctx, path, options...); infoErr == nil && info.Kind == FileKindDirectory {
			return false, nil
		}
	}
	return err == nil, err
}

// Rename moves or renames a file or directory, within a file system of the sandbox.
func (f *Files) Rename(ctx context.Context, from, to string, options ...FileOptions) (*FileInfo, error) {
	selected := firstOption(options)
	body := MoveFileRequest{Source: from, Destination: to, User: textOrNil(selected.User)}
	if selected.NoOverwrite {
		no := false
		body.Overwrite = &no
	}
	return fetch[FileInfo](ctx, f.client, f.request("move_file", body))
}

// Remove removes a file, or a directory with everything in it.
func (f *Files) Remove(ctx context.Context, path string, options ...FileOptions) error {
	return f.client.json(ctx, f.request("remove_file", pathRequest(path, options)), nil)
}

// Chmod changes permission bits, as chmod(1): octal, or symbolic as in u+x.
func (f *Files) Chmod(ctx context.Context, path, mode string, options ...FileOptions) (*FileInfo, error) {
	selected := firstOption(options)
	body := ChmodRequest{Path: path, Mode: mode, User: textOrNil(selected.User), Recursive: trueOrNil(selected.Recursive)}
	return fetch[FileInfo](ctx, f.client, f.request("change_mode", body))
}

// Chown changes owner and group, by name or number; empty ones stay. Only root may give files away.
func (f *Files) Chown(ctx context.Context, path, owner, group string, options ...FileOptions) (*FileInfo, error) {
	selected := firstOption(options)
	body := ChownRequest{
		Path: path, Owner: textOrNil(owner), Group: textOrNil(group), User: textOrNil(selected.User),
		Recursive: trueOrNil(selected.Recursive),
	}
	return fetch[FileInfo](ctx, f.client, f.request("change_owner", body))
}

func archiveQuery(path string, options []FileOptions) url.Values {
	selected := firstOption(options)
	query := url.Values{"path": {path}}
	if selected.User != "" {
		query.Set("user", selected.User)
	}
	if selected.SingleFile {
		query.Set("single_file", "true")
	}
	return query
}

// ReadArchive reads a directory as a tar archive, whose names are relative to it.
func (f *Files) ReadArchive(ctx context.Context, path string, options ...FileOptions) (io.ReadCloser, error) {
	return f.open(ctx, &call{operation: "read_archive", path: f.path(), query: archiveQuery(path, options)})
}

// WriteArchive unpacks a tar archive below a directory, which is made where it is missing.
func (f *Files) WriteArchive(ctx context.Context, path string, tar io.Reader, options ...FileOptions) error {
	source := newSource(tar)
	request := &call{
		operation: "write_archive", path: f.path(), query: archiveQuery(path, options),
		stream: source.open, contentType: "application/x-tar", isOnce: source.isOnce, isData: true,
	}
	return source.close(f.client.json(ctx, request, nil))
}

// tusHeader has the version of the protocol of uploads.
func tusHeader() http.Header { return http.Header{"Tus-Resumable": {"1.0.0"}} }
