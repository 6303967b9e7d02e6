package processors

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// TestARehearsalThatIsOverSaysSo: it lasts no longer than the context that it was made with, and whoever asks it later hears that.
func TestARehearsalThatIsOverSaysSo(t *testing.T) {
	for _, name := range []string{Upserts, Validation} { // without and with reference tables
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.start(name, nil).ready()
			kind, value := schemas.KindCustomerEvents, w.event("A")
			if name == Upserts {
				kind = schemas.KindOwnership
				_, value = w.grant("ann", "sku")
			}
			deps := c.deps
			deps.Metrics = prometheus.NewRegistry()
			ctx, end := context.WithCancel(t.Context())
			defer end()
			r, err := NewRehearsal(ctx, testConfig(), deps, name)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			rec := &kgo.Record{Topic: kind, Value: value, Headers: bare()}
			if _, err := r.Place(t.Context(), rec); err != nil {
				t.Fatal(err)
			}
			if all, err := r.Judge(t.Context(), []*kgo.Record{rec}); err != nil || len(all) != 1 {
				t.Fatalf("while it lasts: %v, %v", all, err)
			}
			end()
			if all, err := r.Judge(t.Context(), []*kgo.Record{rec}); !errors.Is(err, context.Canceled) {
				t.Errorf("when it is over: %v, %v", all, err)
			}
		})
	}
}
