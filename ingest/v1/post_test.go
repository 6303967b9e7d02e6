package v1

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

func TestAReceiptSaysHowFarABatchIs(t *testing.T) {
	good := ingest.Result{Processed: &schemas.OwnershipResult{}}
	bad := ingest.Result{Reasons: []schemas.Reason{{Code: schemas.CodeMissing, Field: "user_name", Message: "user_name is missing."}}}
	fault := ingest.Result{Reasons: []schemas.Reason{{Code: schemas.CodeInternalError, Message: "The item could not be judged."}}}
	pending := ingest.Result{}
	for _, c := range []struct {
		name    string
		results []ingest.Result
		want    batchObject
	}{
		{"nothing to judge", nil, batchObject{Batch: 7, Status: "complete"}},
		{"good and bad", []ingest.Result{good, bad}, batchObject{Batch: 7, Status: "complete", Processed: 1, Unprocessed: 1}},
		{"all bad", []ingest.Result{bad, bad}, batchObject{Batch: 7, Status: "complete", Unprocessed: 2}},
		{"some failed by our fault", []ingest.Result{fault, good}, batchObject{Batch: 7, Status: "complete", Processed: 1, Unprocessed: 1}},
		{"all failed by our fault", []ingest.Result{fault, fault}, batchObject{Batch: 7, Status: "failed", Unprocessed: 2}},
		{"not all judged", []ingest.Result{fault, pending}, batchObject{Batch: 7, Status: "processing", Unprocessed: 1, Pending: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := newReceipt(&ingest.Receipt{Number: 7, Results: c.results}, make([]*string, len(c.results)))
			if diff := cmp.Diff(c.want, got.batchObject); diff != "" || got.Items == nil {
				t.Errorf("%d items (-want +got)\n%s", len(got.Items), diff)
			}
			for i, it := range got.Items {
				if (len(it.Reasons) > 0) != (it.Outcome == outcomeUnprocessed) || int(it.Index) != i {
					t.Errorf("item %d: %+v", i, it)
				}
			}
		})
	}
}
