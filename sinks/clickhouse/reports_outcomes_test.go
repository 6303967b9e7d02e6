package clickhouse

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// setAll gives every member of a head a value of its own, or none where members may be absent.
func setAll(t *testing.T, v reflect.Value, absent bool) {
	t.Helper()
	for i := range v.NumField() {
		f, text := v.Field(i), fmt.Sprintf("%s %d", v.Type().Field(i).Name, i)
		switch p := f.Addr().Interface().(type) {
		case *schemas.Outcome: // set by the test
		case *string:
			*p = text
		case **string:
			if !absent {
				*p = &text
			}
		case *int64:
			*p = int64(i)
		case *bool:
			*p = !absent
		case *[]string:
			if *p = []string{}; !absent {
				*p = []string{text, "another"}
			}
		case *time.Time:
			*p = time.Date(2024, 2, 29, i, 0, 0, 0, time.UTC)
		case **time.Time:
			if day := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC); !absent {
				*p = &day
			}
		default:
			if f.Kind() != reflect.Struct {
				t.Fatalf("%s is a %s: say what to set it to", v.Type().Field(i).Name, f.Type())
			}
			setAll(t, f, absent)
		}
	}
}

// What a batch's items were told first is read back member by member, for every kind, whatever was made of them since.
func TestOutcomesOfFirstAttempts(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	at := time.UnixMilli(1_700_000_000_000).UTC()
	outcome := func(tenant, batch string, index, attempt int32) schemas.Outcome {
		return schemas.Outcome{Tenant: tenant, ID: schemas.ItemID(tenant, batch, index), Batch: &batch, Index: index, Attempt: attempt, Ref: new("r"),
			SourceTopic: "somewhere", SourceEpoch: 1, SourcePartition: 2, SourceOffset: 3, AcceptedAt: at, JudgedAt: at}
	}
	reasons := []schemas.Reason{{Code: schemas.CodeNotFound, Field: "account", Value: new("7"), Message: "m"}, {Code: schemas.CodeMissing, Field: "unit", Message: "n"}}
	// processed makes the value of a kind's processed topic from a head.
	processed := map[string]func(head any) any{
		schemas.KindOwnership: func(h any) any {
			return &schemas.OwnershipProcessed{OwnershipResult: *h.(*schemas.OwnershipResult), Item: schemas.Ownership{Clear: []string{}}}
		},
		schemas.KindCustomerEvents: func(h any) any { return &schemas.EventProcessed{EventResult: *h.(*schemas.EventResult)} },
		schemas.KindReferrals:      func(h any) any { return &schemas.ReferralProcessed{ReferralResult: *h.(*schemas.ReferralResult)} },
		schemas.KindSales: func(h any) any {
			return &schemas.SaleProcessed{SaleResult: *h.(*schemas.SaleResult), Item: schemas.Sale{Properties: []schemas.SaleProperty{}}}
		},
		schemas.KindTransactions: func(h any) any {
			return &schemas.TransactionProcessed{TransactionResult: *h.(*schemas.TransactionResult)}
		},
		schemas.References: func(h any) any { return h },
	}
	for kind, head := range heads {
		t.Run(kind, func(t *testing.T) {
			key, other := schemas.NewBatchKey(), schemas.NewBatchKey()
			value := processed[kind]
			if value == nil {
				t.Fatal("say what its outcomes look like")
			}
			good := func(o schemas.Outcome, absent bool) any {
				h := reflect.New(head)
				setAll(t, h.Elem(), absent)
				h.Elem().FieldByName("Outcome").Set(reflect.ValueOf(o))
				r.produce(&kgo.Record{Topic: schemas.ProcessedTopic(kind), Value: r.encode(schemas.ProcessedTopic(kind), value(h.Interface()))})
				return h.Interface()
			}
			bad := func(o schemas.Outcome) {
				u := &schemas.Unprocessed{Outcome: o, Kind: kind, Reasons: reasons, Format: schemas.FormatJSON, Original: []byte("{}")}
				if kind == schemas.KindSales {
					u.Sale = &schemas.UnmatchedSale{SaleKey: "s", Item: schemas.Sale{Properties: []schemas.SaleProperty{}}}
				}
				r.produce(&kgo.Record{Topic: schemas.UnprocessedTopic(kind), Value: r.encode(schemas.UnprocessedTopic(kind), u)})
			}
			var want []schemas.OutcomeReport
			want = append(want, schemas.OutcomeReport{Index: 0, Processed: good(outcome("acme", key, 0, 1), false)})
			bad(outcome("acme", key, 1, 1))
			good(outcome("acme", key, 1, 2), false) // a replay of it did better
			want = append(want, schemas.OutcomeReport{Index: 1, Reasons: reasons})
			want = append(want, schemas.OutcomeReport{Index: 2, Processed: good(outcome("acme", key, 2, 1), true)})
			bad(outcome("acme", key, 4, 1)) // the fourth item has none yet
			want = append(want, schemas.OutcomeReport{Index: 4, Reasons: reasons})
			good(outcome("acme", other, 3, 1), false)
			good(outcome("other", key, 3, 1), false)
			bad(outcome("other", key, 3, 1))
			topic, _ := schemas.TopicNamed(schemas.ProcessedTopic(kind))
			r.wait("5 3", "SELECT concat(toString((SELECT count() FROM {db}."+tablesOf(topic)[0].name+" WHERE topic = '"+topic.Name+"')), ' ', "+
				"toString((SELECT count() FROM {db}.unprocessed WHERE kind = '"+kind+"')))")
			got, err := r.conn.Reports().BatchOutcomes(t.Context(), "acme", kind, key)
			must(t, err)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("BatchOutcomes (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := r.conn.Reports().BatchOutcomes(t.Context(), "acme", schemas.Batches, schemas.NewBatchKey()); err == nil {
		t.Error("a kind without outcomes has some")
	}
}
