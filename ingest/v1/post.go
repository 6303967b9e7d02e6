package v1

import (
	"net/http"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// post takes a batch of items and answers with what became of each.
func (a *API) post(w http.ResponseWriter, r *http.Request, k *Kind) error {
	caller, err := a.svc.Authenticate(r, ingest.DoorV1)
	if err != nil {
		return err
	}
	parser := parserOf(r.Header.Get("Content-Type"))
	if parser == nil {
		w.Header().Set("Accept-Post", mediaJSON+", "+mediaNDJSON+", "+mediaCSV)
		return ingest.NewError(ingest.CodeUnsupported, "Content-Type must be "+mediaJSON+", "+mediaNDJSON+" or "+mediaCSV+", in UTF-8")
	}
	body, err := a.svc.ReadBody(r)
	if err != nil {
		return err
	}
	items, err := parser.parse(k, caller.Tenant, body)
	if err != nil {
		return err
	}
	refs := make([]*string, len(items))
	for i := range items {
		refs[i] = items[i].Ref
	}
	wait, applied := preference(r.Header.Values("Prefer"))
	receipt, err := a.svc.Submit(r.Context(), &ingest.Batch{
		Tenant: caller.Tenant, KeyID: caller.KeyID, Door: ingest.DoorV1, Operation: k.Name, Kind: k.Topic, Items: items, Wait: wait,
	})
	if err != nil {
		return err
	}
	if applied != "" {
		w.Header().Set("Preference-Applied", applied)
	}
	w.Header().Set("Location", ingest.JobURL(receipt.Number))
	status := http.StatusOK
	if receipt.Pending > 0 {
		status = http.StatusAccepted
	}
	ingest.WriteJSON(w, status, newReceipt(receipt, refs))
	return nil
}

// receiptObject is the answer to a batch.
type receiptObject struct {
	batchObject
	Items []itemObject `json:"items"`
}

func newReceipt(receipt *ingest.Receipt, refs []*string) *receiptObject {
	o := &receiptObject{batchObject: batchObject{Batch: receipt.Number}, Items: make([]itemObject, len(refs))}
	faults := 0
	for i, ref := range refs {
		res := &receipt.Results[i]
		it := itemObject{Index: int32(i), Ref: ref, ID: res.ID}
		switch {
		case res.Processed != nil:
			it.Outcome = outcomeProcessed
			o.Processed++
		case res.Reasons != nil:
			it.Outcome, it.Reasons = outcomeUnprocessed, newReasons(res.Reasons)
			o.Unprocessed++
			if res.Reasons[0].Code == schemas.CodeInternalError {
				faults++
			}
		default:
			it.Outcome = outcomePending
			o.Pending++
		}
		o.Items[i] = it
	}
	report := schemas.BatchReport{
		Items: int64(len(refs)), Processed: o.Processed, Unprocessed: o.Unprocessed, Failed: len(refs) > 0 && faults == len(refs),
	}
	o.Status = report.Status()
	return o
}
