package avon

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// Path is the route of the operation that the page documents.
const Path = "/financial-transaction-batches"

// Service is what the adapter needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	ReadBody(r *http.Request) ([]byte, error)
	Submit(ctx context.Context, b *ingest.Batch) (*ingest.Receipt, error)
}

var _ Service = (*ingest.Service)(nil)

// Adapter serves the API.
type Adapter struct{ svc Service }

// New makes the adapter.
func New(svc Service) *Adapter { return &Adapter{svc} }

// route is what a path says of a request.
type route struct {
	known  bool
	format format // of the answer, as the path says
	suffix bool   // it is a suffix of the documented path: nothing else chooses the answer's format
	body   format // of a body without a known type; on the documented route there is none
	oneWay bool   // the answer has no body
	auto   bool   // the body is an array of request DTOs
}

// elsewhere is the pattern of all paths with one segment that no door has: among them are the documented one in other cases and with other suffixes.
const elsewhere = "/{path}"

// Register adds the routes: the documented one with its suffixes, and those that every ServiceStack server has for each operation.
func (a *Adapter) Register(mux *http.ServeMux) {
	handle := func(pattern string, routeOf func(r *http.Request) route) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			rt := routeOf(r)
			a.serve(w, r, &rt)
		})
	}
	plain := func(*http.Request) route { return route{known: true} }
	handle(Path, plain)
	handle(Path+"/{$}", plain)
	handle(Path+"/", func(*http.Request) route { return route{} })
	for name, f := range suffixes {
		handle(Path+"."+name, func(*http.Request) route { return route{known: true, format: f, suffix: true} })
		for _, first := range spellings(name) {
			handle("/"+first+"/", func(r *http.Request) route { return predefined(r, f) })
		}
	}
	handle("/api/", apiRoute)
	mux.HandleFunc(elsewhere, func(w http.ResponseWriter, r *http.Request) {
		if rt, ok := documented(r); ok {
			a.serve(w, r, &rt)
		} else {
			unknown(mux, w, r)
		}
	})
}

// unknown answers for what is not below [elsewhere], as ServeMux itself does: 405 where the path has other methods, 404 where there is nothing.
func unknown(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != elsewhere {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
}

// suffixes are the formats that paths name.
var suffixes = map[string]format{"json": formatJSON, "jsv": formatJSV, "xml": formatXML, "csv": formatCSV}

// spellings are a word in all mixtures of large and small letters: case does not matter to ServiceStack, and it does to ServeMux, which cannot
// take a first segment of any name beside the other doors' paths.
func spellings(word string) []string {
	all := []string{""}
	for _, c := range word {
		var longer []string
		for _, s := range all {
			longer = append(longer, s+string(c), s+strings.ToUpper(string(c)))
		}
		all = longer
	}
	return all
}

// documented reads /financial-transaction-batches[.format] in any case; ok is false for what is something else.
func documented(r *http.Request) (rt route, ok bool) {
	name, suffix, found := strings.Cut(r.URL.Path, ".")
	f := suffixes[strings.ToLower(suffix)]
	return route{known: !found || f != noFormat, format: f, suffix: f != noFormat}, strings.EqualFold(name, Path)
}

// predefined reads /json/reply/FinancialTransactionsBatchCreate and its kind.
func predefined(r *http.Request, f format) route {
	rt := route{format: f, body: f}
	_, path, _ := strings.Cut(r.URL.Path[1:], "/")
	verb, name, _ := strings.Cut(strings.TrimSuffix(path, "/"), "/")
	name, rt.auto = strings.CutSuffix(name, "[]")
	rt.oneWay = strings.EqualFold(verb, "oneway")
	rt.known = strings.EqualFold(name, operation) && (rt.oneWay || strings.EqualFold(verb, "reply"))
	return rt
}

// apiRoute reads /api/FinancialTransactionsBatchCreate[.format], which newer servers have.
func apiRoute(r *http.Request) route {
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/"), "/")
	name, suffix, found := strings.Cut(path, ".")
	f := suffixes[strings.ToLower(suffix)]
	rt := route{format: f, body: cmp.Or(f, formatJSON)}
	name, rt.auto = strings.CutSuffix(name, "[]")
	rt.known = strings.EqualFold(name, operation) && (!found || rt.format != noFormat)
	return rt
}

// answer is what goes back.
type answer struct {
	status    int
	location  string
	completed string // header X-AutoBatch-Completed; empty: none
	body      []byte
}

func (a *Adapter) serve(w http.ResponseWriter, r *http.Request, rt *route) {
	query, badQuery := url.ParseQuery(r.URL.RawQuery)
	out, badCallback := negotiate(r, rt, query)
	var reply answer
	var err error
	switch {
	case !rt.known:
		err = ingest.NewError(ingest.CodeNotFound, "There is no operation "+r.URL.Path)
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		err = ingest.NewError(ingest.CodeMethod, "The operation is POST only")
	case badCallback:
		err = &malformed{"callback is no name of a function"}
	case badQuery != nil:
		err = &malformed{"the query of the URL is not well encoded"}
	default:
		reply, err = a.create(r, rt, query, out)
	}
	if err != nil {
		reply = refusal(w, r, out, err)
	}
	reply.write(w, out)
}

func (a answer) write(w http.ResponseWriter, out output) {
	h := w.Header()
	h.Set("Vary", "Accept")
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.completed != "" {
		h.Set("X-AutoBatch-Completed", a.completed)
	}
	if a.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="Avon"`)
	}
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return
	}
	h.Set("Content-Type", out.contentType())
	if out.callback != "" {
		h.Set("X-Content-Type-Options", "nosniff")
	}
	if out.format == formatCSV {
		h.Set("Content-Disposition", "attachment; filename="+operation+".csv")
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client is gone; the access log shows it by the bytes
}

// autoBatchIndex is the member of meta that says which DTO of an array failed.
const autoBatchIndex = "AutoBatchIndex"

// Codes of ServiceStack: the exception's class where it throws one that the contract knows, else the name of the HTTP status.
const (
	serialization = "SerializationException"
	pending       = "Pending"
	internal      = "InternalServerError"
)

var codes = map[ingest.Code]string{
	ingest.CodeMalformed:           serialization,
	ingest.CodeUnauthenticated:     "AuthenticationException",
	ingest.CodeForbidden:           "UnauthorizedAccessException",
	ingest.CodeNotFound:            "NotFound",
	ingest.CodeMethod:              "MethodNotAllowed",
	ingest.CodeIdempotencyKey:      "InvalidIdempotencyKey",
	ingest.CodeIdempotencyConflict: "IdempotencyKeyReused",
	ingest.CodeTooLarge:            "RequestEntityTooLarge",
	ingest.CodeUnsupported:         "UnsupportedMediaType",
	ingest.CodeRateLimited:         "TooManyRequests",
	ingest.CodeBusy:                "ServiceUnavailable",
}

// refusal puts an error into the partner's form. Nothing of the request was accepted.
func refusal(w http.ResponseWriter, r *http.Request, out output, err error) answer {
	reply := answer{}
	var meta map[string]string
	switch refused := err.(type) {
	case *malformed:
		err = ingest.NewError(ingest.CodeMalformed, refused.message(r))
	case *refusedDTO:
		err, reply.completed, meta = refused.cause, "0", map[string]string{autoBatchIndex: strconv.Itoa(refused.index)}
	}
	e := ingest.AsError(err)
	ingest.NoteError(r, e)
	e.SetRetryAfter(w)
	code, ok := codes[e.Code]
	if !ok {
		code = internal
	}
	status := &responseStatus{ErrorCode: code, Message: e.Message, Errors: []responseError{}, Meta: meta}
	if e.Index >= 0 {
		status.Errors = append(status.Errors, responseError{code, list + "[" + strconv.Itoa(e.Index) + "]", e.Message})
	}
	reply.status, reply.body = e.Status(), formatResponse(out, status)
	return reply
}

// message is what ServiceStack says of a body that it cannot read, the apostrophe included that nothing opens.
func (m *malformed) message(r *http.Request) string {
	return fmt.Sprintf("Could not deserialize '%s' request using NAV.ServiceModel.%s'\nError: %s", shown(mediaType(r.Header.Get("Content-Type"))), operation, m.problem)
}

// create serves the operation. A request DTO is taken whole or not at all; of an array of them those before the first that cannot be taken.
func (a *Adapter) create(r *http.Request, rt *route, query url.Values, out output) (answer, error) {
	caller, err := a.svc.Authenticate(r, ingest.DoorAvon)
	if err != nil {
		return answer{}, err
	}
	raw, err := a.svc.ReadBody(r)
	if err != nil {
		return answer{}, err
	}
	b := body{text: string(raw), query: query, auto: rt.auto}
	if b.format, b.boundary = bodyFormat(r, rt); b.format == noFormat && len(raw) > 0 {
		// ServiceStack would ignore the body and answer 200.
		return answer{}, &malformed{"the Content-Type must be one of JSON, JSV, XML, CSV or a form"}
	}
	q, err := read(b)
	if err != nil {
		return answer{}, err
	}
	ingest.NoteContent(r, mediaTypes[b.format], url.Values{list: listsIn(b.query)}.Encode())
	items := q.items[:q.first()]
	receipt := &ingest.Receipt{}
	if len(items) > 0 || ingest.Keyed(r) && !q.failed && len(q.errors) == 0 { // a request that is refused binds no key
		receipt, err = a.svc.Submit(r.Context(), &ingest.Batch{
			Tenant: caller.Tenant, KeyID: caller.KeyID, Door: ingest.DoorAvon, Operation: operation, Kind: schemas.KindTransactions, Items: items,
		})
		if err != nil {
			return answer{}, q.located(err, rt)
		}
	}
	return q.outcome(receipt, rt, out), nil
}

// located says of a refusal that names a transaction in which DTO of an array that is.
func (q *request) located(err error, rt *route) error {
	e := ingest.AsError(err)
	if !rt.auto || e.Index < 0 {
		return err
	}
	begin := 0
	for index, end := range q.ends {
		if e.Index < end {
			e := *e
			e.Index -= begin
			return &refusedDTO{&e, index}
		}
		begin = end
	}
	return err
}

// refusedDTO refuses a whole array of DTOs, because of one.
type refusedDTO struct {
	cause *ingest.Error
	index int
}

func (e *refusedDTO) Error() string { return e.cause.Error() }

// outcome is the answer to a request that was accepted, as far as it could be.
func (q *request) outcome(receipt *ingest.Receipt, rt *route, out output) answer {
	reply := answer{status: http.StatusOK}
	if receipt.Number > 0 {
		reply.location = ingest.JobURL(receipt.Number)
	}
	fail := func(status int, s *responseStatus, index int) answer {
		reply.status = status
		if rt.auto {
			reply.completed = strconv.Itoa(index)
			s.Meta = map[string]string{autoBatchIndex: reply.completed}
		}
		reply.body = formatResponse(out, s)
		return reply
	}
	failed, index := q.unprocessed(receipt)
	switch {
	case len(failed) > 0:
		// What was accepted stays: the others must not be sent again.
		message := fmt.Sprintf("Some of the %d transactions could not be processed; the others were, so do not send them again. The outcomes are found at %s", len(receipt.Results), reply.location)
		return fail(http.StatusInternalServerError, &responseStatus{ErrorCode: internal, Message: message, Errors: failed}, index)
	case q.failed || len(q.errors) > 0:
		return fail(http.StatusBadRequest, &responseStatus{
			ErrorCode: serialization, Message: "Unable to bind to request '" + operation + "'", Errors: q.errors,
		}, len(q.ends))
	case receipt.Pending > 0:
		message := "The request was accepted and is being processed; do not send it again. Its outcomes will be found at " + reply.location
		reply.status = http.StatusAccepted
		reply.body = formatResponse(out, &responseStatus{ErrorCode: pending, Message: message, Errors: []responseError{}})
		return reply
	}
	reply.location = ""
	if rt.auto {
		reply.completed = strconv.Itoa(len(q.ends))
		reply.body = formatResponses(out, len(q.ends))
	} else {
		reply.body = formatResponse(out, nil)
	}
	if rt.oneWay {
		reply.status, reply.body = http.StatusNoContent, nil
	}
	return reply
}

// unprocessed lists the accepted transactions that could not be processed, of the first DTO that has any, and the DTO's index.
func (q *request) unprocessed(receipt *ingest.Receipt) (errors []responseError, index int) {
	begin := 0
	for index, end := range q.ends {
		for i := begin; i < end && i < len(receipt.Results); i++ {
			result := &receipt.Results[i]
			if result.Processed != nil || len(result.Reasons) == 0 {
				continue
			}
			errors = append(errors, responseError{internal, list + "[" + strconv.Itoa(i-begin) + "]", "The transaction was accepted, but could not be processed"})
		}
		if errors != nil {
			return errors, index
		}
		begin = end
	}
	return nil, 0
}
