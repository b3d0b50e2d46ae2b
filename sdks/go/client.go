package wrenn

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// ClientOptions say how a client reaches its server. Every field has a default.
type ClientOptions struct {
	// APIURL is the address of the server. Default: WRENN_API_URL, else the credentials file, else
	// http://127.0.0.1:8000.
	APIURL string
	// APIKey is the key. Default: WRENN_API_KEY, else the credentials file.
	APIKey string
	// Timeout is the time of a call whose context has no deadline. Default: a minute, and five for calls that save, copy
	// or start a machine. Of a call that carries data of any size, it is the time without progress (default five
	// minutes). Negative: no limit.
	Timeout time.Duration
	// Retries is the number of times that a request is sent again. Default 3; negative: none.
	Retries int
	// Header goes with each request.
	Header http.Header
	// HTTPClient sends the requests; set its transport for proxies and certificate authorities of one's own. Its Timeout
	// must be 0, and its redirects are not followed.
	HTTPClient *http.Client
}

// Client is a connection to a server with a key. It is safe for concurrent use.
type Client struct {
	Events   *Events
	Webhooks *Webhooks

	options  ClientOptions
	sender   *http.Client
	mutex    sync.Mutex
	settings *settings
	// patience is the time without an answer after which streams and uploads are given up.
	patience time.Duration
}

// defaultTransport finds dead peers behind idle streams, and waits as long as the context of a call does.
var defaultTransport = sync.OnceValue(newTransport)

func newTransport() http.RoundTripper {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
	}
	// A program may have set another one, which is not of this type.
	if standard, ok := http.DefaultTransport.(*http.Transport); ok {
		transport = standard.Clone()
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	transport.DialContext = dialer.DialContext
	transport.MaxIdleConnsPerHost = 32
	// The server ends connections that were idle for a minute.
	transport.IdleConnTimeout = 30 * time.Second
	return transport
}

// NewClient returns a client. Without a key in the options every call finds server and key as the command line does.
func NewClient(options ...ClientOptions) *Client {
	c := &Client{options: firstOption(options), patience: reconnectFor}
	sender := http.Client{Transport: defaultTransport()}
	if c.options.HTTPClient != nil {
		sender = *c.options.HTTPClient
	}
	// An answer from elsewhere would take the key there.
	sender.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.sender = &sender
	c.Events = &Events{client: c}
	c.Webhooks = &Webhooks{client: c}
	return c
}

// firstOption returns the options of a call, which may be left out.
func firstOption[T any](options []T) T {
	if len(options) > 0 {
		return options[0]
	}
	var none T
	return none
}

var defaultClient = sync.OnceValue(func() *Client { return NewClient() })

func (c *Client) http() *http.Client { return c.sender }

func (c *Client) retries() int {
	if c.options.Retries == 0 {
		return defaultRetries
	}
	return max(0, c.options.Retries)
}

// load returns address and key, which are looked for until they are found.
func (c *Client) load() (*settings, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.settings == nil {
		found, err := loadSettings(c.options.APIURL, c.options.APIKey)
		if err != nil {
			return nil, err
		}
		c.settings = found
	}
	return c.settings, nil
}

// Health asks whether the server is well.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	return fetch[Health](ctx, c, &call{operation: "health"})
}

// OpenAPI gets the API document of the server.
func (c *Client) OpenAPI(ctx context.Context) (map[string]any, error) {
	document, err := fetch[map[string]any](ctx, c, &call{operation: "openapi_json"})
	if err != nil {
		return nil, err
	}
	return *document, nil
}

// DiskUsage gets what everything takes on disk.
func (c *Client) DiskUsage(ctx context.Context) (*DiskUsage, error) {
	return fetch[DiskUsage](ctx, c, &call{operation: "get_disk_usage"})
}

// MetricsOptions select metrics.
type MetricsOptions struct {
	// From is the begin. Default: ten minutes before the end.
	From time.Time
	// To is the end. Default: now.
	To time.Time
	// Step is the shortest time between two points.
	Step time.Duration
}

// HostMetrics gets what the hosts used; nothing unless the key is an operator's.
func (c *Client) HostMetrics(ctx context.Context, options ...MetricsOptions) ([]HostMetrics, error) {
	return fetchAll[HostMetrics](ctx, c, &call{operation: "get_host_metrics", query: metricsQuery(options)})
}

// fetch sends a request and reads its answer.
func fetch[T any](ctx context.Context, c *Client, request *call) (*T, error) {
	var answer T
	if err := c.json(ctx, request, &answer); err != nil {
		return nil, err
	}
	return &answer, nil
}

// fetchAll does the same for a list.
func fetchAll[T any](ctx context.Context, c *Client, request *call) ([]T, error) {
	var answer []T
	err := c.json(ctx, request, &answer)
	return answer, err
}
