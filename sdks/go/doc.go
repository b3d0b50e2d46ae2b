// Package wrenn is the client of Wrenn Sandbox, which runs untrusted code in microVMs on a machine of your own.
//
//	sandbox, err := wrenn.Create(ctx)
//	if err != nil {
//		return err
//	}
//	defer sandbox.Close()
//	result, err := sandbox.Commands.Run(ctx, "echo", "hi")
//
// Server and key are found as the command line finds them: WRENN_API_URL and WRENN_API_KEY, else the file that
// `wrenn up` wrote. A [Client] has others.
//
// Errors are [*Error], compared with errors.Is: errors.Is(err, wrenn.ErrNotFound). A call whose context has no deadline
// ends after a minute, and after five where it saves, copies or starts a machine; streams have no limit but their
// context. Requests that did nothing, or that may be repeated, are sent again by themselves.
package wrenn

//go:generate go run ./internal/generate
