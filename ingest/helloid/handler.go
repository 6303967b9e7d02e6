package helloid

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/schemas"
)

// Base is the path of the API.
const Base = "/api/v1/productownership"

// Service is what the adapter needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	ReadBody(r *http.Request) ([]byte, error)
	Submit(ctx context.Context, b *ingest.Batch) (*ingest.Receipt, error)
	WaitForSink(ctx context.Context, topics ...string) error
}

// Reports is what the adapter asks of ClickHouse; an [ingest.Reports] is one.
type Reports interface {
	Ownership(ctx context.Context, tenant, skuKey string) ([]schemas.OwnershipReport, error)
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

// Register adds the routes, each with and without a slash at its end: a redirect would turn a POST into a GET in many clients.
func (a *Adapter) Register(mux *http.ServeMux) {
	handle := func(pattern string, serve func(r *http.Request) (answer, error)) {
		h := func(w http.ResponseWriter, r *http.Request) {
			reply, err := serve(r)
			if err != nil {
				reply = refusal(w, r, err)
			}
			reply.write(w)
		}
		mux.HandleFunc(pattern, h)
		mux.HandleFunc(pattern+"/{$}", h)
	}
	handle("POST "+Base, a.post("single", parseSingle, "application/json"))
	handle("POST "+Base+"/batch", a.post("batch", parseBatch, "application/json"))
	handle("POST "+Base+"/csv", a.post("csv", parseCSV, "text/csv"))
	handle("GET "+Base+"/{sku}", a.get)
	for _, pattern := range []string{
		Base, Base + "/", "GET " + Base + "/batch", "GET " + Base + "/batch/{$}", "GET " + Base + "/csv", "GET " + Base + "/csv/{$}",
	} {
		mux.HandleFunc(pattern, unknown)
	}
}

// unknown answers for what no operation is: 405 where the path has other methods, 404 where there is nothing.
func unknown(w http.ResponseWriter, r *http.Request) {
	e := ingest.NewError(ingest.CodeNotFound, "There is no operation "+r.Method+" "+r.URL.Path)
	if allowed := methodsOf(r.URL.EscapedPath()); allowed != "" {
		w.Header().Set("Allow", allowed)
		e.Code = ingest.CodeMethod
	}
	refusal(w, r, e).write(w)
}

// methodsOf lists the methods of a path below [Base]; empty: there is no such path.
func methodsOf(path string) string {
	rest, _ := strings.CutPrefix(path, Base)
	switch rest = strings.TrimSuffix(strings.TrimPrefix(rest, "/"), "/"); {
	case rest == "", rest == "batch", rest == "csv":
		return "POST"
	case !strings.Contains(rest, "/"):
		return "GET, HEAD"
	}
	return ""
}

// answer is what goes back.
type answer struct {
	status   int // 0: 200
	location string
	body     []byte
}

func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="HelloID"`)
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client is gone; the access log shows it by the bytes
}

// refusal puts an error into the partner's form.
func refusal(w http.ResponseWriter, r *http.Request, err error) answer {
	e := ingest.AsError(err)
	ingest.NoteError(r, e)
	e.SetRetryAfter(w)
	status, message := e.Status(), e.Message
	var defects []defect
	switch e.Code {
	case ingest.CodeUnauthenticated, ingest.CodeForbidden:
		// 401 covers everything, with one text: a good key from a wrong address must look like a wrong one.
		status, message = http.StatusUnauthorized, "Unauthorized"
	case ingest.CodeUnsupported:
		status = http.StatusBadRequest // the only failure that is documented
	case ingest.CodeTooLarge:
		if e.Index >= 0 {
			defects = []defect{{Index: e.Index, Message: message}}
		}
	}
	return answer{status: status, body: formatError(status, message, defects)}
}

// post serves the three ways to change ownership. A request is taken whole or not at all.
func (a *Adapter) post(operation string, parse func(body string) ([]ingest.Item, error), mediaType string) func(r *http.Request) (answer, error) {
	return func(r *http.Request) (answer, error) {
		caller, err := a.svc.Authenticate(r, ingest.DoorHelloID)
		if err != nil {
			return answer{}, err
		}
		if !isMediaType(r.Header.Get("Content-Type"), mediaType) {
			return answer{}, ingest.NewError(ingest.CodeUnsupported, "Content-Type must be "+mediaType+", in UTF-8")
		}
		body, err := a.svc.ReadBody(r)
		if err != nil {
			return answer{}, err
		}
		if strings.TrimSpace(string(body)) == "" {
			return answer{}, malformed("it is empty")
		}
		items, err := parse(string(body))
		if err != nil {
			return answer{}, err
		}
		if defects := defectsOf(items); defects != nil {
			return answer{status: http.StatusBadRequest, body: formatError(http.StatusBadRequest, "Validation failed", defects)}, nil
		}
		if len(items) == 0 && !ingest.Keyed(r) {
			return answer{body: formatReceipt(&ingest.Receipt{})}, nil
		}
		keyed(items, caller.Tenant)
		receipt, err := a.svc.Submit(r.Context(), &ingest.Batch{
			Tenant: caller.Tenant, KeyID: caller.KeyID, Door: ingest.DoorHelloID, Operation: operation, Kind: schemas.KindOwnership, Items: items,
		})
		if err != nil {
			return answer{}, err
		}
		return outcome(receipt, len(items)), nil
	}
}

// outcome is the answer to a request that was accepted. Nothing of it is a failure that invites sending it again: increments would count
// twice.
func outcome(receipt *ingest.Receipt, items int) answer {
	job := ingest.JobURL(receipt.Number)
	if receipt.Pending > 0 {
		return answer{status: http.StatusAccepted, location: job, body: formatError(http.StatusAccepted, pendingMessage(receipt), nil)}
	}
	if defects := failed(receipt); defects != nil {
		message := fmt.Sprintf("Some of the %d records could not be processed; the others were, so do not send them again. The outcomes are found at %s", items, job)
		return answer{status: http.StatusInternalServerError, location: job, body: formatError(http.StatusInternalServerError, message, defects)}
	}
	return answer{body: formatReceipt(receipt)}
}

// get lists who owns a product, with everything in it that was answered before.
func (a *Adapter) get(r *http.Request) (answer, error) {
	caller, err := a.svc.Authenticate(r, ingest.DoorHelloID)
	if err != nil {
		return answer{}, err
	}
	sku := r.PathValue("sku")
	if strings.EqualFold(sku, "batch") || strings.EqualFold(sku, "csv") {
		return answer{}, ingest.NewError(ingest.CodeNotFound, fmt.Sprintf("%s is no SKU: the word is reserved", sku))
	}
	if err := a.svc.WaitForSink(r.Context(), schemas.ProcessedTopic(schemas.KindOwnership)); err != nil {
		return answer{}, err
	}
	owners, err := a.reports.Ownership(r.Context(), caller.Tenant, schemas.Fold(sku))
	if err != nil {
		return answer{}, unavailable(err)
	}
	if len(owners) == 0 {
		return answer{}, ingest.NewError(ingest.CodeNotFound, "The specified product ownership was not found")
	}
	return answer{body: formatOwners(owners)}, nil
}

// unavailable makes an error of ClickHouse one that tells the caller to come back.
func unavailable(err error) error {
	var e *ingest.Error
	if errors.As(err, &e) {
		return err
	}
	return &ingest.Error{Code: ingest.CodeBusy, Message: "The ownership cannot be read at the moment", Index: -1, RetryAfter: time.Second, Cause: "clickhouse", Err: err}
}

// keyed gives each item the key that keeps the changes of one user and product in order.
func keyed(items []ingest.Item, tenant string) {
	for i := range items {
		items[i].Key = upserts.Key(tenant, items[i].Value.(*schemas.Ownership))
	}
}

// isMediaType compares a Content-Type with the one that is required. Bodies are read as UTF-8.
func isMediaType(header, want string) bool {
	got, params, err := mime.ParseMediaType(header)
	if err != nil || got != want {
		return false
	}
	charset := strings.ToLower(params["charset"])
	return charset == "" || charset == "utf-8" || charset == "utf8" || charset == "us-ascii"
}
