package checker

import (
	"strings"
	"testing"

	"github.com/counterfoil/counterfoil/test/harness"
)

// Prove fails the test where a promise was broken or callers were told something else than what is there, and returns what is there. also finds
// more that is wrong with it. Everything must be judged and written by then.
func Prove(t testing.TB, p *harness.Parts, sent []Sent, also ...func(*World) []string) *World {
	t.Helper()
	w, err := Read(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	found := w.Check(sent)
	for _, find := range also {
		found = append(found, find(w)...)
	}
	t.Logf("%d batches, %d items, %d outcomes", len(w.Batches), len(w.Items), len(w.Outcomes))
	if len(found) > 0 {
		t.Errorf("%d promises broken:\n%s", len(found), strings.Join(found, "\n"))
	}
	return w
}
