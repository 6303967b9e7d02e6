package v1

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// Sizes of pages: the usual, and the most that limit may ask for.
const (
	batchesLimit, batchesMost = 100, 1_000
	itemsLimit, itemsMost     = 1_000, 10_000
)

// streamLimit is the size of the pages of a stream, after the first.
const streamLimit = 1_000

// Forms of answers.
type (
	batchObject struct {
		Batch       int64  `json:"batch"`
		Status      string `json:"status"` // schemas.BatchProcessing, ...
		Processed   int64  `json:"processed"`
		Unprocessed int64  `json:"unprocessed"`
		Pending     int64  `json:"pending"`
	}
	itemObject struct {
		Index   int32          `json:"index"`
		Ref     *string        `json:"ref"`
		ID      string         `json:"id"`
		Outcome string         `json:"outcome"`
		Reasons []reasonObject `json:"reasons,omitempty"`
	}
	reasonObject struct {
		Code    string `json:"code"`
		Field   string `json:"field"`
		Message string `json:"message"`
	}
)

// Outcomes of an item.
const (
	outcomeProcessed   = "processed"
	outcomeUnprocessed = "unprocessed"
	outcomePending     = "pending"
)

func newBatch(b *schemas.BatchReport) batchObject {
	return batchObject{
		Batch: b.Number, Status: b.Status(), Processed: b.Processed, Unprocessed: b.Unprocessed, Pending: max(0, b.Items-b.Processed-b.Unprocessed),
	}
}

func newItem(i *schemas.ItemReport, processed bool) itemObject {
	o := itemObject{Index: i.Index, Ref: i.Ref, ID: i.ID, Outcome: outcomeProcessed}
	if !processed {
		o.Outcome, o.Reasons = outcomeUnprocessed, newReasons(i.Reasons)
	}
	return o
}

func newReasons(reasons []schemas.Reason) []reasonObject {
	all := make([]reasonObject, 0, len(reasons))
	for _, r := range reasons {
		all = append(all, reasonObject{Code: r.Code, Field: r.Field, Message: r.Message})
	}
	return all
}

func (a *API) getBatch(w http.ResponseWriter, r *http.Request) error {
	b, err := a.batch(r)
	if err != nil {
		return err
	}
	ingest.WriteJSON(w, http.StatusOK, newBatch(b))
	return nil
}

// jobCaller finds out who asks for a batch. Callers of Mediahawk's door, too, are sent here, with their key in the query.
func (a *API) jobCaller(r *http.Request) (*ingest.Caller, error) {
	return ingest.QueryKey(r, ingest.DoorJobs, a.svc.Authenticate)
}

// batch authenticates and finds the batch of the path's number.
func (a *API) batch(r *http.Request) (*schemas.BatchReport, error) {
	caller, err := a.jobCaller(r)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		number = 0 // nobody's
	}
	return a.svc.FindBatch(r.Context(), caller.Tenant, number)
}

func (a *API) getItems(w http.ResponseWriter, r *http.Request, processed bool) error {
	b, err := a.batch(r)
	if err != nil {
		return err
	}
	p := pager[itemObject]{name: "items", usual: itemsLimit, most: itemsMost, from: -1, after: func(last *itemObject) int64 { return int64(last.Index) }}
	p.read = func(after int64, limit int) ([]itemObject, error) {
		rows, err := a.svc.BatchItems(r.Context(), b, processed, int32(min(after, ingest.MaxItems)), limit)
		items := make([]itemObject, len(rows))
		for i := range rows {
			items[i] = newItem(&rows[i], processed)
		}
		return items, err
	}
	return p.serve(w, r)
}

func (a *API) getBatches(w http.ResponseWriter, r *http.Request) error {
	caller, err := a.jobCaller(r)
	if err != nil {
		return err
	}
	p := pager[batchObject]{name: "batches", usual: batchesLimit, most: batchesMost, after: func(last *batchObject) int64 { return last.Batch }}
	wait := sync.OnceValue(func() error { return a.svc.WaitForBatches(r.Context()) }) // a stream's later pages are as new as its first
	p.read = func(after int64, limit int) ([]batchObject, error) {
		if err := wait(); err != nil {
			return nil, err
		}
		rows, err := a.svc.Batches(r.Context(), caller.Tenant, after, limit)
		batches := make([]batchObject, len(rows))
		for i := range rows {
			batches[i] = newBatch(&rows[i])
		}
		return batches, err
	}
	return p.serve(w, r)
}

// pager answers a list: a page as {"<name>":[…],"next":"…"}; or as NDJSON, all of it unless the caller names a limit.
type pager[T any] struct {
	name        string
	usual, most int   // limits
	from        int64 // after for the first page
	read        func(after int64, limit int) ([]T, error)
	after       func(last *T) int64 // what leads to the rows behind it
}

func (p *pager[T]) serve(w http.ResponseWriter, r *http.Request) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return ingest.NewError(ingest.CodeMalformed, "the query of the URL is not well encoded")
	}
	after, limit, all := p.from, p.usual, false
	if text := q.Get("after"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return ingest.NewError(ingest.CodeMalformed, "after must be the next of an earlier page")
		}
		after = n
	}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return ingest.NewError(ingest.CodeMalformed, "limit must be a whole number of at least 1")
		}
		limit = min(n, p.most)
	} else {
		all = true // in NDJSON
	}
	lines := prefersNDJSON(r.Header.Values("Accept"))
	w.Header().Add("Vary", "Accept")
	rows, next, err := p.page(after, limit)
	if err != nil {
		return err
	}
	if lines && all {
		p.stream(w, r, rows, next)
		return nil
	}
	if next >= 0 {
		q.Set("after", strconv.FormatInt(next, 10))
		q.Del("api_key") // a secret: who follows the link adds it again
		w.Header().Set("Link", "<"+(&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String()+`>; rel="next"`)
	}
	if lines {
		w.Header().Set("Content-Type", mediaNDJSON)
		_ = writeLines(w, rows) // the client is gone
		return nil
	}
	answer := map[string]any{p.name: rows}
	if next >= 0 {
		answer["next"] = strconv.FormatInt(next, 10)
	}
	ingest.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// page reads a page; next is -1 on the last.
func (p *pager[T]) page(after int64, limit int) (rows []T, next int64, err error) {
	rows, err = p.read(after, limit+1)
	if err != nil || len(rows) <= limit {
		return rows, -1, err
	}
	rows = rows[:limit]
	return rows, p.after(&rows[limit-1]), nil
}

// pageTime is how long the client may take to receive a page of a stream.
const pageTime = time.Minute

// stream writes page after page, so that a list of any length takes little memory. An answer that has begun can no longer become an error:
// where a page cannot be read, the connection is closed, and the client sees that the stream is cut.
func (p *pager[T]) stream(w http.ResponseWriter, r *http.Request, rows []T, next int64) {
	w.Header().Set("Content-Type", mediaNDJSON)
	control := http.NewResponseController(w)
	for {
		_ = control.SetWriteDeadline(time.Now().Add(pageTime)) // each page anew; what has no deadline needs none
		if writeLines(w, rows) != nil || next < 0 || r.Method == http.MethodHead {
			return
		}
		var err error
		if rows, next, err = p.page(next, streamLimit); err != nil {
			ingest.NoteError(r, err)
			panic(http.ErrAbortHandler)
		}
	}
}

func writeLines[T any](w http.ResponseWriter, rows []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range rows {
		if err := enc.Encode(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// prefersNDJSON reports whether a caller wants NDJSON more than JSON, by the qualities that its header Accept gives them. Where they are
// equal, JSON is the usual form, unless only NDJSON is named and JSON comes under a wildcard.
func prefersNDJSON(accept []string) bool {
	wanted, named := quality(accept, mediaNDJSON)
	usual, usualNamed := quality(accept, mediaJSON)
	return wanted > 0 && (wanted > usual || wanted == usual && named > usualNamed)
}

// quality is what Accept says of a media type (RFC 9110, 12.5.1): the most specific range that holds it decides. specific is 0 where none
// does, 1 for any type, 2 for any of its kind, 3 for itself.
func quality(accept []string, mediaType string) (q float64, specific int) {
	kind, _, _ := strings.Cut(mediaType, "/")
	ranges := map[string]int{"*/*": 1, kind + "/*": 2, mediaType: 3}
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		got, params, err := mime.ParseMediaType(part)
		if err != nil || ranges[got] <= specific {
			continue
		}
		given := 1.0
		if text, ok := params["q"]; ok {
			if given, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		q, specific = given, ranges[got]
	}
	return q, specific
}
