package v1

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// Base is the path of the API.
const Base = "/v1"

// Service is what the API needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	ReadBody(r *http.Request) ([]byte, error)
	Submit(ctx context.Context, b *ingest.Batch) (*ingest.Receipt, error)
	FindBatch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error)
	WaitForBatches(ctx context.Context) error
	Batches(ctx context.Context, tenant string, before int64, limit int) ([]schemas.BatchReport, error)
	BatchItems(ctx context.Context, b *schemas.BatchReport, processed bool, after int32, limit int) ([]schemas.ItemReport, error)
}

var _ Service = (*ingest.Service)(nil)

// API serves the API.
type API struct {
	svc Service
	mux *http.ServeMux
}

// New makes the API.
func New(svc Service) *API { return &API{svc: svc} }

// Register adds the routes, and answers for all other paths below [Base].
func (a *API) Register(mux *http.ServeMux) {
	a.mux = mux
	for _, k := range kinds {
		mux.HandleFunc("POST "+Base+"/"+k.Name, a.handler(func(w http.ResponseWriter, r *http.Request) error { return a.post(w, r, k) }))
	}
	mux.HandleFunc("GET "+Base+"/batches", a.handler(a.getBatches))
	mux.HandleFunc("GET "+Base+"/batches/{number}", a.handler(a.getBatch))
	mux.HandleFunc("GET "+Base+"/batches/{number}/processed", a.handler(func(w http.ResponseWriter, r *http.Request) error { return a.getItems(w, r, true) }))
	mux.HandleFunc("GET "+Base+"/batches/{number}/unprocessed", a.handler(func(w http.ResponseWriter, r *http.Request) error { return a.getItems(w, r, false) }))
	for _, rest := range others {
		mux.HandleFunc(rest, a.handler(a.unknown))
	}
}

// handler writes an error as a problem. A handler that has begun its answer must not return one.
func (a *API) handler(serve func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			ingest.NoteError(r, err)
			ingest.WriteProblem(w, err)
		}
	}
}

// others are the patterns of what is below Base and nothing else serves.
var others = []string{Base, Base + "/"}

// unknown answers for paths that are not there, and for methods that a path does not have.
func (a *API) unknown(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := *r
		other.Method = method
		if _, pattern := a.mux.Handler(&other); !slices.Contains(others, pattern) {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return ingest.NewError(ingest.CodeNotFound, "there is no such path")
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return ingest.NewError(ingest.CodeMethod, "the path does not have the method "+r.Method)
}
