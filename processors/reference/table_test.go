package reference

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/counterfoil/counterfoil/schemas"
)

type accounts = index[schemas.Account, *schemas.Account]

func newAccounts() *accounts {
	return &accounts{anyCase: true, rows: map[string]*row[schemas.Account]{}, claims: map[identifier]*claim[schemas.Account]{}}
}

// change is a record of the topic; an empty number deletes.
type change struct{ tenant, id, number string }

// play applies changes to an empty index.
func play(changes []change) *accounts {
	x := newAccounts()
	for offset, c := range changes {
		key := string(schemas.ReferenceKey(c.tenant, c.id))
		if c.number == "" {
			x.remove(key)
			continue
		}
		x.put(key, c.tenant, &schemas.Account{ID: c.id, Number: c.number}, int64(offset))
	}
	return x
}

func TestWhoAnIdentifierFinds(t *testing.T) {
	for _, test := range []struct {
		name                 string
		changes              []change
		tenant, field, value string
		want                 string // id; empty: not found
	}{
		{"by number", []change{{"t", "A1", "7"}}, "t", "number", "7", "A1"},
		{"by id in another case", []change{{"t", "A1", "7"}}, "t", "id", "a1", "A1"},
		{"by id as sent", []change{{"t", "a1", "7"}}, "t", "id", "A1", "a1"},
		{"number in another case", []change{{"t", "A1", "x"}}, "t", "number", "X", ""},
		{"another tenant's", []change{{"t", "A1", "7"}}, "u", "number", "7", ""},
		{"another member's value", []change{{"t", "A1", "7"}}, "t", "id", "7", ""},
		{"empty value", []change{{"t", "A1", "7"}}, "t", "name", "", ""},
		{"the later record takes it over", []change{{"t", "A1", "7"}, {"t", "A2", "7"}}, "t", "number", "7", "A2"},
		{"sent again it is the later", []change{{"t", "A1", "7"}, {"t", "A2", "7"}, {"t", "A1", "7"}}, "t", "number", "7", "A1"},
		{"the earlier has it back when the later is deleted", []change{{"t", "A1", "7"}, {"t", "A2", "7"}, {"t", "A2", ""}}, "t", "number", "7", "A1"},
		{"the earlier has it back when the later is renamed", []change{{"t", "A1", "7"}, {"t", "A2", "7"}, {"t", "A2", "8"}}, "t", "number", "7", "A1"},
		{"old number", []change{{"t", "A1", "7"}, {"t", "A1", "8"}}, "t", "number", "7", ""},
		{"deleted", []change{{"t", "A1", "7"}, {"t", "A1", ""}}, "t", "id", "A1", ""},
		{"outside ASCII", []change{{"t", "ÄÖ", "7"}}, "t", "id", "äö", "ÄÖ"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if a := play(test.changes).find(test.tenant, test.field, test.value); a != nil {
				got = a.ID
			}
			if got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
		})
	}
}

// TestCompactionChangesNothing: a copy that starts later reads the compacted topic, in which only the last record of each key is left. Both
// must find the same.
func TestCompactionChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var all, last []change
		for range 1 + rng.IntN(20) {
			c := change{"t", fmt.Sprint("A", rng.IntN(4)), fmt.Sprint(rng.IntN(3))}
			if rng.IntN(4) == 0 {
				c.number = ""
			}
			all = append(all, c)
		}
		for i, c := range all {
			superseded := false
			for _, later := range all[i+1:] {
				superseded = superseded || later.id == c.id
			}
			if !superseded {
				last = append(last, c)
			}
		}
		whole, compacted := play(all), play(last)
		for number := range 3 {
			a, b := whole.find("t", "number", fmt.Sprint(number)), compacted.find("t", "number", fmt.Sprint(number))
			if (a == nil) != (b == nil) || a != nil && a.ID != b.ID {
				t.Fatalf("number %d finds %v, after compaction %v, of %v", number, a, b, all)
			}
		}
		if whole.size() != compacted.size() || len(whole.claims) != len(compacted.claims) {
			t.Fatalf("%d rows and %d identifiers, after compaction %d and %d", whole.size(), len(whole.claims), compacted.size(), len(compacted.claims))
		}
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	x := play([]change{{"t", "0123456789ABCDEF0123456789ABCDEF", "7"}})
	for _, field := range []string{"id", "number"} {
		value := map[string]string{"id": "0123456789abcdef0123456789ABCDEF", "number": "7"}[field]
		if n := testing.AllocsPerRun(100, func() {
			if x.find("t", field, value) == nil {
				t.Error("not found")
			}
		}); n != 0 {
			t.Errorf("%v allocations by %s", n, field)
		}
	}
}
