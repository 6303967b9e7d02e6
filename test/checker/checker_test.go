package checker

import (
	"strings"
	"testing"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

func ptr[T any](v T) *T { return &v }

const batchKey = "0123456789abcdef0123456789abcdef"

// goodWorld is one batch of two changes of the same key, and a bare record that was forwarded.
func goodWorld() *World {
	key := "t\x00u\x00s"
	own := schemas.Partition([]byte(key), 4)
	wrong := (own + 1) % 4
	change := &schemas.Ownership{UserName: ptr("U"), ProductSKU: ptr("S")}
	item := func(partition int32, offset int64) Item {
		return Item{Position: Position{"ownership", partition, offset}, Kind: "ownership", Tenant: "t", Ownership: change}
	}
	first, second, bare, copied := item(own, 0), item(own, 1), item(wrong, 5), item(own, 3)
	for i, it := range []*Item{&first, &second} {
		it.Batch, it.Index, it.ID, it.Marker = batchKey, int32(i), schemas.ItemID("t", batchKey, int32(i)), "m1"
	}
	bare.Misplaced, bare.ID, bare.Marker = true, schemas.BareItemID("ownership", 0, wrong, 5), "m2"
	copied.Origin, copied.ID, copied.Marker = &schemas.Origin{Partition: wrong, Offset: 5}, bare.ID, "m2"
	w := &World{
		Partitions: 4,
		Batches:    []Batch{{Position{"batches", 0, 0}, schemas.BatchHeader{Tenant: "t", Key: batchKey, Items: 2}}},
		State:      map[string]schemas.OwnershipState{key: {Quantity: 3, Version: 3}},
		Dead:       map[Position]bool{},
		Tables:     map[string][]Row{"batches": {{Position{"batches", 0, 0}, "t", batchKey}}},
		Ownership:  map[string]int64{key: 3},
	}
	w.Items = []Item{first, second, copied, bare}
	for n, it := range []Item{first, second, copied} {
		at := Position{"ownership.processed", own, int64(n)}
		o := Outcome{Position: at, Processed: true}
		o.Outcome = schemas.Outcome{Tenant: "t", ID: it.ID, Attempt: 1, SourceTopic: "ownership", SourcePartition: it.Partition, SourceOffset: it.Offset}
		o.Ownership = &schemas.OwnershipResult{PreviousQuantity: int64(n), Quantity: int64(n) + 1, Version: it.Offset}
		w.Outcomes = append(w.Outcomes, o)
		w.Tables["ownership"] = append(w.Tables["ownership"], Row{at, "t", it.ID})
	}
	return w
}

var goodSent = []Sent{{"m1", 2, harness.Accepted}, {"m2", 1, harness.Accepted}, {"m3", 4, harness.Refused}, {"m4", 1, harness.Unknown}}

func TestCheckerHasNothingToSayOfAGoodWorld(t *testing.T) {
	w := goodWorld()
	if found := append(w.Check(), w.CheckSent(goodSent)...); len(found) > 0 {
		t.Error(strings.Join(found, "\n"))
	}
}

// Each broken promise is found by the check that is there for it.
func TestCheckerFindsWhatIsBroken(t *testing.T) {
	for _, c := range []struct {
		name, want string
		hurt       func(w *World)
	}{
		{"an item without outcome", "has no outcome", func(w *World) { w.Outcomes = w.Outcomes[:2] }},
		{"an item judged twice", "has two outcomes", func(w *World) { w.Outcomes = append(w.Outcomes, w.Outcomes[0]) }},
		{"an outcome of nothing", "where no item lies", func(w *World) { w.Outcomes[0].SourceOffset = 99 }},
		{"an outcome of another item", "its outcome at", func(w *World) { w.Outcomes[0].ID = "x" }},
		{"half a batch", "announces 3 items", func(w *World) { w.Batches[0].Items = 3 }},
		{"items without header", "has no header", func(w *World) { w.Batches = nil }},
		{"an item twice in its batch", "announces 2 items", func(w *World) { w.Items[1].Index = 0 }},
		{"forwarded twice", "forwarded 2 times", func(w *World) { w.Items = append(w.Items, w.Items[2]) }},
		{"not forwarded", "forwarded 0 times", func(w *World) { w.Items = append(w.Items[:2:2], w.Items[3]) }},
		{"judged in a wrong partition", "was judged there", func(w *World) { w.Items[0].Misplaced = true }},
		{"a wrong quantity", "the model goes from", func(w *World) { w.Outcomes[1].Ownership.Quantity = 7 }},
		{"a wrong order", "the model goes from", func(w *World) {
			w.Outcomes[0].Ownership, w.Outcomes[1].Ownership = w.Outcomes[1].Ownership, w.Outcomes[0].Ownership
		}},
		{"a changelog behind", "the changelog 2", func(w *World) { w.State["t\x00u\x00s"] = schemas.OwnershipState{Quantity: 2, Version: 3} }},
		{"a record that should be gone", "the model has nothing, the changelog", func(w *World) { w.State["t\x00v\x00s"] = schemas.OwnershipState{Quantity: 2} }},
		{"a view behind", "the view 2", func(w *World) { w.Ownership["t\x00u\x00s"] = 2 }},
		{"a row missing", "is in no table", func(w *World) { w.Tables["ownership"] = w.Tables["ownership"][1:] }},
		{"a row twice", "has two rows", func(w *World) { w.Tables["ownership"] = append(w.Tables["ownership"], w.Tables["ownership"][0]) }},
		{"a row of an aborted record", "no committed record lies", func(w *World) {
			w.Tables["ownership"] = append(w.Tables["ownership"], Row{Position{"ownership.processed", 0, 77}, "t", "y"})
		}},
		{"an accepted batch lost", "was accepted and is not there", func(w *World) { w.Items = w.Items[2:] }},
		{"a refused batch there", "was refused and is there", func(w *World) { w.Items[0].Marker, w.Items[1].Marker = "m3", "m3" }},
		{"an unknown batch half there", "1 items, 2 are there", func(w *World) { w.Items[0].Marker, w.Items[1].Marker = "m4", "m4" }},
		{"something that nobody sent", "nobody sent", func(w *World) { w.Items[0].Marker = "m9" }},
		{"a dead letter with an outcome", "is a dead letter", func(w *World) { w.Dead[w.Items[0].Position] = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := goodWorld()
			c.hurt(w)
			found := strings.Join(append(w.Check(), w.CheckSent(goodSent)...), "\n")
			if !strings.Contains(found, c.want) {
				t.Errorf("want %q among\n%s", c.want, found)
			}
		})
	}
}
