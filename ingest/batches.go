package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// Page sizes of the lists of /v1/batches.
const (
	batchesLimit, batchesMost = 100, 1_000
	itemsLimit, itemsMost     = 1_000, 10_000
)

// Forms of /v1 (decisions 16 and 17).
type (
	batchObject struct {
		Batch       int64  `json:"batch"`
		Status      string `json:"status"` // processing, complete
		Processed   int64  `json:"processed"`
		Unprocessed int64  `json:"unprocessed"`
		Pending     int64  `json:"pending"`
	}
	itemObject struct {
		Index   int32          `json:"index"`
		Ref     *string        `json:"ref"`
		ID      string         `json:"id"`
		Outcome string         `json:"outcome"` // processed, unprocessed
		Reasons []reasonObject `json:"reasons,omitempty"`
	}
	reasonObject struct {
		Code    string `json:"code"`
		Field   string `json:"field"`
		Message string `json:"message"`
	}
)

func newBatchObject(b *schemas.BatchReport) batchObject {
	o := batchObject{Batch: b.Number, Status: "complete", Processed: b.Processed, Unprocessed: b.Unprocessed, Pending: max(0, b.Items-b.Processed-b.Unprocessed)}
	if o.Pending > 0 {
		o.Status = "processing"
	}
	return o
}

func newItemObject(i *schemas.ItemReport, processed bool) itemObject {
	o := itemObject{Index: i.Index, Ref: i.Ref, ID: i.ID, Outcome: "processed"}
	if !processed {
		o.Outcome = "unprocessed"
		o.Reasons = make([]reasonObject, 0, len(i.Reasons))
		for _, r := range i.Reasons {
			o.Reasons = append(o.Reasons, reasonObject{Code: r.Code, Field: r.Field, Message: r.Message})
		}
	}
	return o
}

func (s *Service) getBatch(w http.ResponseWriter, r *http.Request) {
	b, err := s.batchOfPath(r)
	if err != nil {
		s.problemOf(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, newBatchObject(b))
}

// batchOfPath authenticates and finds the batch of the path's number.
func (s *Service) batchOfPath(r *http.Request) (*schemas.BatchReport, error) {
	caller, err := s.Authenticate(r, DoorJobs)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		number = 0 // nobody's
	}
	return s.FindBatch(r.Context(), caller.Tenant, number)
}

// FindBatch finds a tenant's batch by its number, with counts that are no older than the call. It is in ClickHouse, or its header is in Kafka
// at the offset that the number names: a number that was given out is never unknown. The error is an *[Error]: CodeNotFound when the tenant
// has no such batch, whoever else has one; CodeBusy when Kafka or ClickHouse do not answer, or the sink is behind.
func (s *Service) FindBatch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error) {
	unknown := NewError(CodeNotFound, "there is no such batch")
	if number <= 0 {
		return nil, unknown
	}
	var kind string
	b, err := s.deps.Reports.Batch(ctx, tenant, number)
	switch {
	case err != nil:
		return nil, reportError(err)
	case b != nil:
		kind = b.Kind
	default:
		if kind, err = s.kindInKafka(ctx, tenant, number); err != nil {
			return nil, busy("kafka", "the batch could not be looked up; try again later", err)
		}
		if kind == "" {
			return nil, unknown
		}
	}
	if err := s.WaitForSink(ctx, readFrom(kind)...); err != nil {
		return nil, err
	}
	if b, err = s.deps.Reports.Batch(ctx, tenant, number); err != nil {
		return nil, reportError(err)
	}
	if b == nil {
		return nil, AsError(fmt.Errorf("batch %d is in Kafka and not in ClickHouse, although the sink has passed it", number))
	}
	return b, nil
}

// kindInKafka is the kind of a tenant's batch by its header in Kafka; empty: the tenant has none with this number. Whether another has, or
// nobody, makes no difference: the record's envelope says whose it is, and nothing of another tenant's is looked at.
func (s *Service) kindInKafka(ctx context.Context, tenant string, number int64) (string, error) {
	record, err := s.recordAt(ctx, schemas.Batches, 0, number-1-s.cfg.NumberBase)
	if record == nil || err != nil {
		return "", err
	}
	if envelope, err := schemas.ParseEnvelope(record.Headers); err != nil || envelope.Tenant != tenant {
		return "", nil //nolint:nilerr // what is not in our form is nobody's batch
	}
	header, err := s.decodeHeader(ctx, record.Value)
	if err != nil {
		return "", err
	}
	return header.Kind, nil
}

func reportError(err error) *Error {
	return busy("reports", "the reports cannot be read now; try again later", err)
}

func (s *Service) problemOf(w http.ResponseWriter, r *http.Request, err error) {
	NoteError(r, err)
	WriteProblem(w, err)
}

func (s *Service) getProcessed(w http.ResponseWriter, r *http.Request)   { s.getItems(w, r, true) }
func (s *Service) getUnprocessed(w http.ResponseWriter, r *http.Request) { s.getItems(w, r, false) }

func (s *Service) getItems(w http.ResponseWriter, r *http.Request, processed bool) {
	after, limit, err := page(r, itemsLimit, itemsMost)
	var b *schemas.BatchReport
	if err == nil {
		b, err = s.batchOfPath(r)
	}
	if err != nil {
		s.problemOf(w, r, err)
		return
	}
	from := int32(-1)
	if after != nil {
		from = int32(min(*after, MaxItems))
	}
	rows, err := s.deps.Reports.BatchItems(r.Context(), b.Tenant, b.Kind, b.Key, processed, from, limit+1)
	if err != nil {
		s.problemOf(w, r, reportError(err))
		return
	}
	next := ""
	if len(rows) > limit {
		rows = rows[:limit]
		next = strconv.Itoa(int(rows[limit-1].Index))
	}
	items := make([]itemObject, len(rows))
	for i := range rows {
		items[i] = newItemObject(&rows[i], processed)
	}
	writePage(w, r, "items", items, next)
}

func (s *Service) getBatches(w http.ResponseWriter, r *http.Request) {
	caller, err := s.Authenticate(r, DoorJobs)
	var after *int64
	var limit int
	if err == nil {
		after, limit, err = page(r, batchesLimit, batchesMost)
	}
	if err == nil {
		err = s.WaitForSink(r.Context(), append(resultTopics(), schemas.Batches)...)
	}
	if err != nil {
		s.problemOf(w, r, err)
		return
	}
	before := int64(0)
	if after != nil {
		before = *after
	}
	rows, err := s.deps.Reports.Batches(r.Context(), caller.Tenant, before, limit+1)
	if err != nil {
		s.problemOf(w, r, reportError(err))
		return
	}
	next := ""
	if len(rows) > limit {
		rows = rows[:limit]
		next = strconv.FormatInt(rows[limit-1].Number, 10)
	}
	batches := make([]batchObject, len(rows))
	for i := range rows {
		batches[i] = newBatchObject(&rows[i])
	}
	writePage(w, r, "batches", batches, next)
}

// page reads the parameters after and limit.
func page(r *http.Request, usual, most int) (after *int64, limit int, err error) {
	q := r.URL.Query()
	if text := q.Get("after"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, 0, NewError(CodeMalformed, "after must be the next of an earlier page")
		}
		after = &n
	}
	limit = usual
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return nil, 0, NewError(CodeMalformed, "limit must be a whole number of at least 1")
		}
	}
	return after, min(limit, most), nil
}

// writePage answers a page as {"<name>":[…],"next":"…"}, or as NDJSON where the caller asks for that; its next page is then in the header
// Link alone.
func writePage[T any](w http.ResponseWriter, r *http.Request, name string, rows []T, next string) {
	if next != "" {
		q := r.URL.Query()
		q.Set("after", next)
		w.Header().Set("Link", "<"+(&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String()+`>; rel="next"`)
	}
	if !prefersNDJSON(r.Header.Values("Accept")) {
		answer := map[string]any{name: rows}
		if next != "" {
			answer["next"] = next
		}
		WriteJSON(w, http.StatusOK, answer)
		return
	}
	w.Header().Set("Content-Type", ndjson)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for i := range rows {
		if enc.Encode(&rows[i]) != nil {
			return // the client is gone
		}
	}
}

const ndjson = "application/x-ndjson"

// prefersNDJSON reports whether a caller wants NDJSON more than JSON, by the qualities that its header Accept gives them. Where they are
// equal, JSON is the usual form, unless only NDJSON is named and JSON comes under a wildcard.
func prefersNDJSON(accept []string) bool {
	wanted, named := quality(accept, ndjson)
	usual, usualNamed := quality(accept, "application/json")
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
