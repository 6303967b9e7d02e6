package mediahawk

import (
	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// batchObject is the answer to a POST and an element of the list. The published sample quotes three of its integers; the schema wins.
type batchObject struct {
	ID        int64  `json:"id"`
	Lookback  int32  `json:"lookback"` // months
	Status    string `json:"status"`   // processing, complete or failed
	Successes int64  `json:"successes"`
	Errors    int64  `json:"errors"`
}

// errorResult is the form of every refusal. Errors is empty where it is not about members of the body, never absent.
type errorResult struct {
	Message string   `json:"message"`
	Errors  []defect `json:"errors"`
}

// formatReceipt is the answer to a POST: what was accepted, and what is known of it already. That is something when a request is repeated with
// its Idempotency-Key: then the status must be no other than that of a GET before it.
func formatReceipt(receipt *ingest.Receipt, lookback int32) []byte {
	report := schemas.BatchReport{Number: receipt.Number, Lookback: &lookback, Items: int64(len(receipt.Results))}
	broken := int64(0)
	for i := range receipt.Results {
		switch r := &receipt.Results[i]; {
		case r.Processed != nil:
			report.Processed++
		case r.Reasons != nil:
			report.Unprocessed++
			if r.Reasons[0].Code == schemas.CodeInternalError {
				broken++
			}
		}
	}
	report.Failed = broken > 0 && broken == report.Items
	return formatBatch(&report)
}

func formatBatch(b *schemas.BatchReport) []byte { return ingest.EncodeJSON(newBatchObject(b)) }

func newBatchObject(b *schemas.BatchReport) batchObject {
	o := batchObject{ID: b.Number, Status: b.Status(), Successes: b.Processed, Errors: b.Unprocessed}
	if b.Lookback != nil { // every batch of this door has one
		o.Lookback = *b.Lookback
	}
	return o
}

// formatList is the answer to a GET of the list: an array without an envelope.
func formatList(batches []schemas.BatchReport) []byte {
	list := make([]batchObject, len(batches))
	for i := range batches {
		list[i] = newBatchObject(&batches[i])
	}
	return ingest.EncodeJSON(list)
}

func formatError(message string, errors []defect) []byte {
	if errors == nil {
		errors = []defect{}
	}
	return ingest.EncodeJSON(errorResult{message, errors})
}
