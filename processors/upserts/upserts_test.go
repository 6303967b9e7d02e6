package upserts

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/ruletest"
)

func TestRules(t *testing.T) {
	ruletest.Run(t, "testdata/*.txt", func() ruletest.World { return &world{records: map[string]*schemas.OwnershipState{}} })
}

// world keeps records as the engine does: by key, checked before decided.
type world struct {
	records map[string]*schemas.OwnershipState
	version int64
}

func (w *world) Row(string) any { return nil }
func (w *world) Load(any)       {}

func (w *world) Item(typ string) any {
	if typ != "ownership" {
		return nil
	}
	return &schemas.Ownership{}
}

func (w *world) Judge(item any) (any, []schemas.Reason) {
	it := item.(*schemas.Ownership)
	if reasons := Check(it); len(reasons) > 0 {
		return nil, reasons
	}
	w.version++
	key := string(Key("demo", it))
	res, next := Decide(it, w.records[key], w.version)
	if next == nil {
		delete(w.records, key)
	} else {
		w.records[key] = next
	}
	return &res, nil
}

// model is the contract read aloud, slowly: each item is held against the whole history of its user and product.
type model struct{ history []*schemas.Ownership }

func (m *model) apply(it *schemas.Ownership) *schemas.OwnershipState {
	m.history = append(m.history, it)
	var owned int64
	var approval *time.Time
	var source *string
	for _, h := range m.history {
		if !strings.EqualFold(*h.UserName, *it.UserName) || !strings.EqualFold(*h.ProductSKU, *it.ProductSKU) {
			continue
		}
		absent, yes := h.HasProduct == nil, h.HasProduct != nil && *h.HasProduct
		switch {
		case !absent && !yes:
			owned = 0
		case h.Quantity != nil:
			owned = *h.Quantity
		case yes && h.IncreaseQuantityBy == nil:
			if owned == 0 {
				owned = 1
			}
		default:
			by := int64(1)
			if h.IncreaseQuantityBy != nil {
				by = *h.IncreaseQuantityBy
			}
			if owned += by; owned < 0 {
				owned = 0
			}
		}
		for _, c := range h.Clear {
			if c == "source" {
				source = nil
			} else {
				approval = nil
			}
		}
		if h.Source != nil {
			source = h.Source
		}
		if h.TimeOfApproval != nil {
			approval = h.TimeOfApproval
		}
		if owned == 0 {
			approval, source = nil, nil
		}
	}
	return &schemas.OwnershipState{UserName: *it.UserName, ProductSKU: *it.ProductSKU, TimeOfApproval: approval, Source: source, Quantity: owned}
}

func TestSequencesEqualTheModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		w, m := &world{records: map[string]*schemas.OwnershipState{}}, model{}
		for step := range 60 {
			it := random(r)
			before := *it
			got, reasons := w.Judge(it)
			if reasons != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, reasons)
			}
			if diff := cmp.Diff(&before, it); diff != "" {
				t.Fatalf("seed %d, step %d: the item was changed:\n%s", seed, step, diff)
			}
			res, want := got.(*schemas.OwnershipResult), m.apply(it)
			want.Version = w.version
			have := &schemas.OwnershipState{UserName: res.UserName, ProductSKU: res.ProductSKU, TimeOfApproval: res.TimeOfApproval, Source: res.Source,
				Quantity: res.Quantity, Version: res.Version}
			if diff := cmp.Diff(want, have); diff != "" {
				t.Fatalf("seed %d, step %d (-model +result):\n%s", seed, step, diff)
			}
			kept := w.records[string(Key("demo", it))]
			if want.Quantity == 0 {
				want = nil
			}
			if diff := cmp.Diff(want, kept); diff != "" {
				t.Fatalf("seed %d, step %d (-model +record):\n%s", seed, step, diff)
			}
		}
	}
}

// random is an item without defects of one of four keys, each in two spellings.
func random(r *rand.Rand) *schemas.Ownership {
	it := &schemas.Ownership{UserName: oneOf(r, "ann", "Ann", "bob", "BOB"), ProductSKU: oneOf(r, "x1", "X1", "y2", "Y2")}
	if r.IntN(3) == 0 {
		it.TimeOfApproval = oneOf(r, time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2021, 2, 2, 0, 0, 0, 0, time.UTC))
	} else if r.IntN(4) == 0 {
		it.Clear = append(it.Clear, "time_of_approval")
	}
	if r.IntN(3) == 0 {
		it.Source = oneOf(r, "AD", "HR", "")
	} else if r.IntN(4) == 0 {
		it.Clear = append(it.Clear, "source")
	}
	if r.IntN(2) == 0 {
		it.HasProduct = oneOf(r, true, true, false)
	}
	if r.IntN(3) == 0 {
		it.Quantity = oneOf[int64](r, 0, 1, 5)
	}
	if r.IntN(2) == 0 {
		it.IncreaseQuantityBy = oneOf[int64](r, -3, -1, 0, 1, 2)
	}
	return it
}

func oneOf[T any](r *rand.Rand, values ...T) *T {
	v := values[r.IntN(len(values))]
	return &v
}

func TestIncreasesStopAtTheLargestNumber(t *testing.T) {
	one := int64(MaxQuantity)
	it := &schemas.Ownership{UserName: new(string), ProductSKU: new(string), IncreaseQuantityBy: &one}
	if res, _ := Decide(it, &schemas.OwnershipState{Quantity: math.MaxInt64 - 5}, 1); res.Quantity != math.MaxInt64 {
		t.Errorf("quantity is %d", res.Quantity)
	}
}

func TestKeysOfDifferentItemsDiffer(t *testing.T) {
	key := func(tenant, user, sku string) string {
		return string(Key(tenant, &schemas.Ownership{UserName: &user, ProductSKU: &sku}))
	}
	if key("t", "Ann", "x") != key("t", "ANN", "X") {
		t.Error("case makes another key")
	}
	if key("t", "a", "bc") == key("t", "ab", "c") || key("ta", "b", "c") == key("t", "ab", "c") {
		t.Error("parts run into each other")
	}
	if got := string(Key("t", &schemas.Ownership{})); got != "t\x00\x00" {
		t.Errorf("an item without names has the key %q", got)
	}
}

// FuzzCheck feeds what any producer could send. Nothing may panic, reasons must be writable, and what passes must be decided within bounds.
func FuzzCheck(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		data, err := schemas.OwnershipSchema.Avro().AppendEncode(nil, random(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var it schemas.Ownership
		if _, err := schemas.OwnershipSchema.Avro().Decode(data, &it); err != nil {
			t.Skip()
		}
		key := Key("demo", &it)
		if reasons := Check(&it); len(reasons) > 0 {
			ruletest.CheckReasons(t, reasons)
			return
		}
		if n := strings.Count(string(key), "\x00"); n != 2 {
			t.Errorf("key %q has %d separators", key, n)
		}
		res, next := Decide(&it, nil, 7)
		if res.Quantity < 0 || res.Quantity > MaxQuantity || (next == nil) != (res.Quantity == 0) {
			t.Errorf("quantity %d, record %v", res.Quantity, next)
		}
		if _, err := schemas.OwnershipProcessedSchema.Avro().AppendEncode(nil, &schemas.OwnershipProcessed{OwnershipResult: res, Item: it}); err != nil {
			t.Errorf("the outcome cannot be written: %v", err)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	user, sku, source := "j.doe@example.com", "APP-01", "AD"
	it := &schemas.Ownership{UserName: &user, ProductSKU: &sku, Source: &source}
	cur := &schemas.OwnershipState{UserName: user, ProductSKU: sku, Quantity: 3}
	b.ReportAllocs()
	for b.Loop() {
		if len(Check(it)) > 0 {
			b.Fatal("defects")
		}
		Decide(it, cur, 1)
	}
}

func TestAReplayLeavesWhatCameAfterIt(t *testing.T) {
	at := time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)
	cur := func(version int64) *schemas.OwnershipState {
		return &schemas.OwnershipState{UserName: "ANN", ProductSKU: "S-1", Quantity: 5, Source: new("later"), TimeOfApproval: &at, Version: version}
	}
	item := func(change func(*schemas.Ownership)) *schemas.Ownership {
		it := &schemas.Ownership{UserName: new("ann"), ProductSKU: new("s-1"), Source: new("earlier"), Clear: []string{timeOfApproval}}
		change(it)
		return it
	}
	for _, c := range []struct {
		name       string
		change     func(*schemas.Ownership)
		cur        *schemas.OwnershipState
		quantity   int64
		superseded bool
	}{
		{"sets, nothing there", func(it *schemas.Ownership) { it.Quantity = new(int64(3)) }, nil, 3, false},
		{"sets, nothing came after", func(it *schemas.Ownership) { it.Quantity = new(int64(3)) }, cur(10), 3, false},
		{"sets after", func(it *schemas.Ownership) { it.Quantity = new(int64(3)) }, cur(11), 0, true},
		{"removes after", func(it *schemas.Ownership) { it.HasProduct = new(false) }, cur(11), 0, true},
		{"has after", func(it *schemas.Ownership) { it.HasProduct = new(true) }, cur(11), 0, true},
		{"adds, nothing came after", func(it *schemas.Ownership) { it.IncreaseQuantityBy = new(int64(2)) }, cur(10), 7, false},
		{"adds after", func(it *schemas.Ownership) { it.IncreaseQuantityBy = new(int64(2)) }, cur(11), 7, false},
		{"adds one after", func(*schemas.Ownership) {}, cur(11), 6, false},
		{"adds after, having it", func(it *schemas.Ownership) { it.HasProduct, it.IncreaseQuantityBy = new(true), new(int64(2)) }, cur(11), 7, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			it := item(c.change)
			res, next, reasons := DecideReplay(it, c.cur, 10, 20)
			if superseded := len(reasons) == 1 && reasons[0].Code == schemas.CodeSuperseded; superseded != c.superseded {
				t.Fatalf("reasons are %+v", reasons)
			}
			if c.superseded {
				return
			}
			want := &schemas.OwnershipState{UserName: "ann", ProductSKU: "s-1", Quantity: c.quantity, Source: new("earlier"), Version: 20}
			if c.cur != nil && c.cur.Version > 10 {
				want = cur(20)
				want.Quantity = c.quantity
			}
			if diff := cmp.Diff(want, next); diff != "" || res.Quantity != c.quantity || res.Version != 20 {
				t.Errorf("(-want +got):\n%s%+v", diff, res)
			}
		})
	}
}
