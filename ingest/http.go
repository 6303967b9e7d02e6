package ingest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/counterfoil/counterfoil/schemas"
)

// request is what is known of a request while it is served, for the log, the metrics and the byte budget. Only the request's own goroutine
// touches it.
type request struct {
	id       string
	door     string
	keyID    string
	tenant   string
	batch    int64       // number of the batch that it became; 0: none
	trace    string      // traceparent (W3C), passed on with the items
	keys     []string    // values of the header Idempotency-Key; nil: none
	body     []byte      // of a request with an Idempotency-Key, until the batch is made
	media    string      // of such a request: the media type that the body is read as, without parameters
	boundary []byte      // of such a request: what begins the delimiters in a body of several parts
	query    string      // of such a request: what is data, in one spelling
	token    []byte      // that is in the body
	answer   http.Header // of the answer
	cause    string
	err      error
	reserved int64 // bytes of the budget that it holds
}

type requestKey struct{}

// of finds the request's notes; a request that did not come through [Service.Handler] has some that nobody reads.
func of(ctx context.Context) *request {
	if q, ok := ctx.Value(requestKey{}).(*request); ok {
		return q
	}
	return &request{}
}

func noteDoor(r *http.Request, door string) { of(r.Context()).door = door }

func noteCaller(r *http.Request, key *schemas.APIKey) {
	q := of(r.Context())
	q.keyID, q.tenant = key.ID, key.Tenant
}

// NoteError puts an internal error into the access log's line of the request. Adapters call it with errors that they show in a form without
// internals.
func NoteError(r *http.Request, err error) {
	q := of(r.Context())
	q.err = err
	var e *Error
	if errors.As(err, &e) && q.cause == "" {
		q.cause = e.Cause
	}
}

// Mux is where adapters register their routes, before [Service.Run].
func (s *Service) Mux() *http.ServeMux { return s.mux }

// Addr is the address that the service listens on; with port 0 in the configuration it has the port that was chosen.
func (s *Service) Addr() string { return s.listener.Addr().String() }

// server makes the HTTP server. Every phase of a connection has its time, so that slow clients hold nothing for long.
func (s *Service) server() *http.Server {
	return &http.Server{
		Handler:           s.Handler(),
		MaxHeaderBytes:    2 * maxHeader, // beyond maxHeader we answer ourselves, as far as that goes
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       s.cfg.BodyTimeout,
		// from the end of the headers: the body, a place in the budget, the commit, the wait for outcomes, and the answer's own way
		WriteTimeout: s.cfg.BodyTimeout + s.cfg.BudgetWait + s.cfg.PublishTimeout + s.cfg.Wait + max(s.cfg.Wait, MaxWait, s.cfg.SinkWait, s.cfg.SinkWaitStart) + 30*time.Second,
		IdleTimeout:  2 * time.Minute,
		ErrorLog:     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Handler is the whole service: all routes with their middleware.
func (s *Service) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := &request{id: requestID(r), keys: r.Header.Values(idempotencyKey), answer: w.Header()}
		if trace := r.Header.Get("Traceparent"); len(trace) == 55 && isPlain(trace) {
			q.trace = trace
		}
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, q))
		rec := &recorder{ResponseWriter: w}
		w.Header().Set("X-Request-Id", q.id)
		start := time.Now()
		defer func() {
			p := recover()
			s.budget.release(q.reserved)
			s.finish(r, rec, q, p, time.Since(start))
			if aborted(p) { // the connection is to be closed without an answer
				panic(p)
			}
		}()
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = http.MaxBytesReader(rec, r.Body, MaxBodyBytes+1)
		}
		if headerBytes(r) > maxHeader {
			refused := s.refuse(&Error{Code: CodeHeaders, Message: fmt.Sprintf("the request's headers have more than %d bytes", maxHeader), Index: -1, Cause: "headers"})
			NoteError(r, refused)
			WriteProblem(rec, refused)
			return
		}
		s.mux.ServeHTTP(rec, withoutEmptySegments(r))
	})
}

// withoutEmptySegments is the request for /a/b where one for /a//b came, as from a client whose base ends in a slash: the partners' servers take it
// so, and ServeMux would send a redirect, which not every client follows with a POST.
func withoutEmptySegments(r *http.Request) *http.Request {
	escaped := r.URL.EscapedPath()
	if !strings.Contains(escaped, "//") {
		return r
	}
	for strings.Contains(escaped, "//") {
		escaped = strings.ReplaceAll(escaped, "//", "/")
	}
	to := *r.URL
	var err error
	if to.Path, err = url.PathUnescape(escaped); err != nil {
		return r
	}
	to.RawPath = escaped
	r = r.WithContext(r.Context()) // a copy: the access log has what came
	r.URL = &to
	return r
}

// headerBytes is what the request line and the headers have. net/http keeps its limit only to within its buffers, some 8 KiB, and
// refuses in text.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// aborted tells the panic that asks for the connection to be closed from all others.
func aborted(p any) bool {
	err, _ := p.(error)
	return errors.Is(err, http.ErrAbortHandler)
}

// finish ends a request: an answer to a panic, one line of the access log, the metrics.
func (s *Service) finish(r *http.Request, rec *recorder, q *request, p any, took time.Duration) {
	aborted := aborted(p)
	if p != nil && !aborted {
		s.log.Error("panic while serving a request", "request", q.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		if rec.status == 0 {
			WriteProblem(rec, NewError(CodeInternal, "internal error"))
		}
	}
	status := rec.status
	switch {
	case aborted:
		status = 0
	case status == 0:
		status = http.StatusOK
	}
	door := q.door
	if door == "" {
		door = "none"
	}
	s.metrics.requests.WithLabelValues(door, strconv.Itoa(status)).Inc()
	s.metrics.requestSeconds.WithLabelValues(door).Observe(took.Seconds())
	level := slog.LevelInfo
	switch {
	case r.URL.Path == "/readyz": // asked again and again; what it says is in its answer
		level = slog.LevelDebug
	case status >= 500 || aborted:
		level = slog.LevelWarn
	case q.door == "":
		level = slog.LevelDebug // probes and scrapers
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	// The path without the query: keys and tokens may stand in that.
	attrs := []slog.Attr{
		slog.String("request", q.id), slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", status),
		slog.Int64("bytes", rec.bytes), slog.Duration("took", took), slog.String("client", s.clientAddr(r).String()),
	}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("door", q.door)
	add("tenant", q.tenant)
	add("key", q.keyID)
	if q.batch != 0 {
		attrs = append(attrs, slog.Int64("batch", q.batch))
	}
	add("cause", q.cause)
	if q.err != nil {
		add("error", q.err.Error())
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes the caller's X-Request-Id where that is short and plain, so that a request can be followed through several systems.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if len(id) > 0 && len(id) <= 64 && isPlain(id) {
		return id
	}
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func isPlain(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// routes registers what is no partner's.
func (s *Service) routes() {
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	if s.deps.Gatherer != nil {
		s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.deps.Gatherer, promhttp.HandlerOpts{}))
	}
}

// readyz names everything that is not ready, one a line.
func (s *Service) readyz(w http.ResponseWriter, _ *http.Request) {
	var lines []string
	if err := s.Ready(); err != nil {
		lines = append(lines, strings.Split(err.Error(), "\n")...)
	}
	for name, check := range s.deps.Checks {
		if err := check(); err != nil {
			lines = append(lines, name+": "+err.Error())
		}
	}
	if len(lines) == 0 {
		fmt.Fprintln(w, "ready")
		return
	}
	slices.Sort(lines)
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// serve answers requests until ctx is done, and then lets those at work finish, for no longer than DrainTimeout.
func (s *Service) serve(ctx context.Context) error {
	server := s.server()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	s.drain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		s.log.Warn("requests did not end in time; closing their connections", "after", s.cfg.DrainTimeout)
		return server.Close()
	}
	return nil
}

// listen binds the address, so that a taken port is an error of New.
func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on HTTP_ADDR: %w", err)
	}
	return l, nil
}
