package caliq

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// Base is the path of the API, and operation the one that is served, whatever its case.
const (
	Base      = "/api/v1/"
	operation = "CustomerBuyingReport"
)

// maxBody bounds the bytes of a body, unpacked: it has six short members, and is parsed before the key is known.
const maxBody = 64 << 10

// Service is what the adapter needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	ReadBody(r *http.Request) ([]byte, error)
}

// Reports is what the adapter asks of ClickHouse; an [ingest.Reports] is one.
type Reports interface {
	BuyingReport(ctx context.Context, p schemas.BuyingReportParams) ([]schemas.BuyingReportItem, error)
}

var (
	_ Service = (*ingest.Service)(nil)
	_ Reports = ingest.Reports(nil)
)

// Adapter serves the API.
type Adapter struct {
	svc     Service
	reports Reports
}

// New makes the adapter.
func New(svc Service, reports Reports) *Adapter { return &Adapter{svc, reports} }

// Register adds everything below [Base] that no other door has: which paths there are, and which methods they have, is told in the
// framework's form.
func (a *Adapter) Register(mux *http.ServeMux) {
	mux.HandleFunc(Base, func(w http.ResponseWriter, r *http.Request) {
		mediaType := negotiate(r.Header)
		items, err := a.serve(r)
		switch {
		case err != nil:
			e := refusal(w, r, err)
			write(w, e.status, mediaType, formatError(e, formatOf(mediaType)))
		case len(items) == 0:
			w.WriteHeader(http.StatusNoContent)
		default:
			write(w, http.StatusOK, mediaType, formatReport(items, formatOf(mediaType)))
		}
	})
}

func write(w http.ResponseWriter, status int, mediaType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaType+"; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone; the access log shows it by the bytes
}

// serve answers a request. Whether a customer exists is not told to a caller without a good key.
func (a *Adapter) serve(r *http.Request) ([]schemas.BuyingReportItem, error) {
	name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, Base), "/")
	if !strings.EqualFold(name, operation) {
		return nil, notFound(r, name)
	}
	if r.Method != http.MethodPost {
		return nil, &httpError{status: http.StatusMethodNotAllowed, Message: "The requested resource does not support http method '" + r.Method + "'."}
	}
	body, err := a.svc.ReadBody(r)
	if err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, ingest.NewError(ingest.CodeTooLarge, "the body has more than "+strconv.Itoa(maxBody)+" bytes")
	}
	p, err := read(r.Header.Get("Content-Type"), body)
	if err != nil {
		return nil, err
	}
	caller, err := a.svc.Authenticate(r, ingest.DoorCaliq, ingest.KeyCredential(p.key))
	if err != nil {
		return nil, err
	}
	question, err := p.question(caller.Tenant, time.Now().UTC().Truncate(24*time.Hour))
	if err != nil {
		return nil, err
	}
	items, err := a.reports.BuyingReport(r.Context(), question)
	if err != nil {
		return nil, unavailable(err)
	}
	return items, nil
}

func notFound(r *http.Request, name string) error {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return &httpError{
		status:        http.StatusNotFound,
		Message:       "No HTTP resource was found that matches the request URI '" + scheme + r.Host + r.URL.EscapedPath() + "'.",
		MessageDetail: "No type was found that matches the controller named '" + name + "'.",
	}
}

// refusal puts an error into the framework's form.
func refusal(w http.ResponseWriter, r *http.Request, err error) *httpError {
	var refused *httpError
	if errors.As(err, &refused) {
		ingest.NoteError(r, refused)
	} else {
		e := ingest.AsError(err)
		ingest.NoteError(r, e)
		e.SetRetryAfter(w)
		refused = &httpError{status: e.Status(), Message: sentence(e.Message)}
		switch e.Code {
		case ingest.CodeUnauthenticated, ingest.CodeForbidden:
			refused.status, refused.Message = http.StatusUnauthorized, "Authorization has been denied for this request."
		case ingest.CodeInternal:
			refused.Message = "An error has occurred."
		}
	}
	switch refused.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
	return refused
}

// sentence makes a message of ours look like the framework's.
func sentence(message string) string {
	return strings.ToUpper(message[:1]) + message[1:] + "."
}

// unavailable makes an error of ClickHouse one that tells the caller to come back.
func unavailable(err error) error {
	var e *ingest.Error
	if errors.As(err, &e) {
		return err
	}
	return &ingest.Error{Code: ingest.CodeBusy, Message: "the report cannot be read at the moment", Index: -1, RetryAfter: time.Second, Cause: "clickhouse", Err: err}
}
