package mediahawk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/schemas"
)

// Root is the path of the API; it is there without Root as well, for callers whose base address ends with it.
const Root = "/rest/v2_0"

const collection = "/sales/batches"

// Limits of the list.
const (
	usualLimit = 100
	mostLimit  = 1000
)

// Service is what the adapter needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	ReadBody(r *http.Request) ([]byte, error)
	Submit(ctx context.Context, b *ingest.Batch) (*ingest.Receipt, error)
	FindBatch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error)
	WaitForSink(ctx context.Context, topics ...string) error
}

// Reports is what the adapter asks of ClickHouse; an [ingest.Reports] is one.
type Reports interface {
	DoorBatches(ctx context.Context, tenant, door string, offset int64, limit int) ([]schemas.BatchReport, error)
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
	handle := func(method, path string, serve func(r *http.Request) (answer, error)) {
		h := func(w http.ResponseWriter, r *http.Request) {
			reply, err := serve(r)
			if err != nil {
				reply = refusal(w, r, err)
			}
			reply.write(w)
		}
		for _, root := range []string{Root, ""} {
			mux.HandleFunc(method+" "+root+path, h)
			mux.HandleFunc(method+" "+root+path+"/{$}", h)
		}
	}
	handle(http.MethodPost, collection, a.post)
	handle(http.MethodGet, collection, a.list)
	handle(http.MethodGet, collection+"/{id}", a.get)
	for _, pattern := range []string{Root, Root + "/", "/sales", "/sales/"} {
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

// methodsOf lists the methods of a path; empty: there is no such path.
func methodsOf(path string) string {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, Root), collection)
	if !ok {
		return ""
	}
	switch id := strings.TrimSuffix(strings.TrimPrefix(rest, "/"), "/"); {
	case rest == "" || rest == "/":
		return "GET, HEAD, POST"
	case rest[0] == '/' && !strings.Contains(id, "/"):
		return "GET, HEAD"
	}
	return ""
}

// answer is what goes back.
type answer struct {
	status int // 0: 200
	body   []byte
}

func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	if a.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
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
	var defects []defect
	if e.Index >= 0 {
		defects = []defect{{fmt.Sprintf("sales[%d]", e.Index), e.Message}}
	}
	return answer{status: e.Status(), body: formatError(e.Message, defects)}
}

// post serves the upload of sales.
func (a *Adapter) post(r *http.Request) (answer, error) {
	caller, err := ingest.QueryKey(r, ingest.DoorMediahawk, a.svc.Authenticate)
	if err != nil {
		return answer{}, err
	}
	if !isJSON(r.Header.Get("Content-Type")) {
		return answer{}, ingest.NewError(ingest.CodeUnsupported, "Content-Type must be application/json, in UTF-8")
	}
	body, err := a.svc.ReadBody(r)
	if err != nil {
		return answer{}, err
	}
	ingest.NoteContent(r, "application/json", "")
	u, err := parse(string(body))
	if err != nil {
		return answer{}, err
	}
	if u.defects != nil {
		return answer{status: http.StatusBadRequest, body: formatError("Validation failed", u.defects)}, nil
	}
	receipt, err := a.svc.Submit(r.Context(), &ingest.Batch{
		Tenant: caller.Tenant, KeyID: caller.KeyID, Door: ingest.DoorMediahawk, Operation: "sales", Kind: schemas.KindSales, Lookback: &u.lookback,
		Wait: &noWait, Items: u.items(caller.Tenant),
	})
	if err != nil {
		return answer{}, u.placed(err)
	}
	return answer{body: formatReceipt(receipt, u.lookback)}, nil
}

// noWait: a batch is answered as soon as it is committed.
var noWait time.Duration

// items makes the batch's items. The caller's reference is the sale's id, so that the outcomes of /v1 can be told apart: their indexes are those
// of the sales that are left.
func (u *upload) items(tenant string) []ingest.Item {
	items := make([]ingest.Item, len(u.sales))
	for i, s := range u.sales {
		items[i] = ingest.Item{Ref: s.ID, Value: &s.Sale}
		if matching.Ordered(&s.Sale) {
			items[i].Key = matching.Key(tenant, &s.Sale, "")
		}
	}
	return items
}

// placed makes the index of an error that of the sale in the request.
func (u *upload) placed(err error) error {
	e := ingest.AsError(err)
	if e.Index < 0 || e.Index >= len(u.sales) {
		return err
	}
	moved := *e
	moved.Index = u.sales[e.Index].index
	return &moved
}

// list serves the batches of before.
func (a *Adapter) list(r *http.Request) (answer, error) {
	caller, err := ingest.QueryKey(r, ingest.DoorMediahawk, a.svc.Authenticate)
	if err != nil {
		return answer{}, err
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return answer{status: http.StatusBadRequest, body: formatError("Validation failed", []defect{{"query", "must be well encoded: name=value pairs with & between them"}})}, nil
	}
	offset, wrong := whole(q, "offset", 0, nil)
	limit, wrong := whole(q, "limit", usualLimit, wrong)
	if wrong != nil {
		return answer{status: http.StatusBadRequest, body: formatError("Validation failed", wrong)}, nil
	}
	if err := a.svc.WaitForSink(r.Context(), schemas.Batches, schemas.ProcessedTopic(schemas.KindSales), schemas.UnprocessedTopic(schemas.KindSales)); err != nil {
		return answer{}, err
	}
	batches, err := a.reports.DoorBatches(r.Context(), caller.Tenant, ingest.DoorMediahawk, offset, int(min(limit, mostLimit)))
	if err != nil {
		return answer{}, unavailable(err)
	}
	return answer{body: formatList(batches)}, nil
}

// whole reads a parameter that counts, which may be left out or empty. One that is larger than can be counted is as good as the largest.
func whole(q url.Values, name string, usual int64, wrong []defect) (int64, []defect) {
	text := q.Get(name)
	if text == "" {
		return usual, wrong
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || n < 0 {
		return 0, append(wrong, defect{name, "must be a whole number of at least 0"})
	}
	return min(n, math.MaxInt64-mostLimit), wrong
}

// get serves one batch.
func (a *Adapter) get(r *http.Request) (answer, error) {
	caller, err := ingest.QueryKey(r, ingest.DoorMediahawk, a.svc.Authenticate)
	if err != nil {
		return answer{}, err
	}
	unknown := ingest.NewError(ingest.CodeNotFound, "There is no such batch")
	number, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return answer{}, unknown
	}
	b, err := a.svc.FindBatch(r.Context(), caller.Tenant, number)
	if err != nil {
		if e := ingest.AsError(err); e.Code == ingest.CodeNotFound {
			return answer{}, unknown
		}
		return answer{}, err
	}
	if b.Door != ingest.DoorMediahawk {
		return answer{}, unknown
	}
	return answer{body: formatBatch(b)}, nil
}

// isJSON reports whether a body may be read as JSON: by its media type, or because it has none.
func isJSON(header string) bool {
	if header == "" {
		return true
	}
	got, params, err := mime.ParseMediaType(header)
	charset := strings.ToLower(params["charset"])
	return err == nil && (got == "application/json" || got == "text/json") && (charset == "" || charset == "utf-8" || charset == "utf8" || charset == "us-ascii")
}

// unavailable makes an error of ClickHouse one that tells the caller to come back.
func unavailable(err error) error {
	var e *ingest.Error
	if errors.As(err, &e) {
		return err
	}
	return &ingest.Error{Code: ingest.CodeBusy, Message: "The batches cannot be read at the moment", Index: -1, RetryAfter: time.Second, Cause: "clickhouse", Err: err}
}
