package wrenn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// deleteTimeout is the time that the deletion of an upload that failed may take.
const deleteTimeout = 5 * time.Second

// Upload uploads a file of a size in bytes, and goes on after a break: the sandbox knows how far it is. The path keeps
// its old content until the end. It is given up when a minute passes without a byte that arrived.
func (f *Files) Upload(
	ctx context.Context, data io.ReaderAt, size int64, path string, options ...WriteOptions,
) error {
	upload, err := f.beginUpload(ctx, size, path, firstOption(options))
	if err != nil {
		return err
	}
	place := map[string]string{"id": f.sandboxID, "upload": upload}
	if err := f.sendParts(ctx, data, size, place); err != nil {
		// What has arrived takes room in the sandbox for a day otherwise. The first error is the one to tell.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
		defer cancel()
		_ = f.client.json(cleanup, &call{operation: "delete_upload", path: place, header: tusHeader()}, nil)
		return err
	}
	return nil
}

func (f *Files) beginUpload(ctx context.Context, size int64, path string, options WriteOptions) (string, error) {
	encode := func(name, value string) string {
		return name + " " + base64.StdEncoding.EncodeToString([]byte(value))
	}
	metadata := []string{encode("path", path)}
	if options.User != "" {
		metadata = append(metadata, encode("user", options.User))
	}
	if options.Mode != 0 {
		metadata = append(metadata, encode("mode", fmt.Sprintf("%04o", options.Mode&0o7777)))
	}
	if options.SHA256 != "" {
		metadata = append(metadata, encode("sha256", options.SHA256))
	}
	header := tusHeader()
	header.Set("Upload-Length", strconv.FormatInt(size, 10))
	header.Set("Upload-Metadata", strings.Join(metadata, ","))
	answer, err := f.client.page(ctx, &call{operation: "begin_upload", path: f.path(), header: header}, nil)
	if err != nil {
		return "", err
	}
	location := answer.Get("Location")
	upload := location[strings.LastIndex(location, "/")+1:]
	if upload == "" {
		return "", unreadable(errors.New("an upload without a location"))
	}
	return upload, nil
}

func (f *Files) sendParts(ctx context.Context, data io.ReaderAt, size int64, place map[string]string) error {
	var offset int64
	patience := patience{limit: f.client.patience}
	for offset < size {
		arrived, err := f.sendPart(ctx, data, offset, size, place)
		if err != nil {
			arrived, err = f.offsetAfter(ctx, place, &patience, err)
		}
		if err != nil {
			return err
		}
		if arrived > offset {
			patience.progressed()
		}
		offset = arrived
	}
	return nil
}

// offsetAfter returns the offset at which an upload goes on after a failure. It asks until there is an answer, or
// there was no progress for too long.
func (f *Files) offsetAfter(
	ctx context.Context, place map[string]string, patience *patience, failure error,
) (int64, error) {
	for uploadGoesOn(failure) {
		if err := patience.wait(ctx, failure); err != nil {
			return 0, err
		}
		answer, err := f.client.page(ctx, &call{operation: "get_upload", path: place, header: tusHeader()}, nil)
		if err == nil {
			return offsetOf(answer)
		}
		failure = err
	}
	return 0, failure
}

// uploadGoesOn returns true for an error after which an upload is continued. A conflict is one: bytes of the part
// that broke off arrived after the offset was asked for.
func uploadGoesOn(err error) bool {
	return isTransientAnswer(err) || errors.Is(err, ErrConflict)
}

func (f *Files) sendPart(
	ctx context.Context, data io.ReaderAt, offset, size int64, place map[string]string,
) (int64, error) {
	header := tusHeader()
	header.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	rest := newSource(io.MultiReader(io.NewSectionReader(data, offset, size-offset)))
	rest.length = size - offset
	request := &call{
		operation: "write_upload", path: place, header: header, contentType: "application/offset+octet-stream",
		stream: rest.open, isOnce: true, isData: true,
	}
	answer, err := f.client.page(ctx, request, nil)
	if err != nil {
		return 0, rest.close(err)
	}
	return offsetOf(answer)
}

func offsetOf(header http.Header) (int64, error) {
	offset, err := strconv.ParseInt(header.Get("Upload-Offset"), 10, 64)
	if err != nil {
		return 0, unreadable(errors.New("an upload without an offset"))
	}
	return offset, nil
}
