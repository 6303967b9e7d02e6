package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/processors"
	"github.com/counterfoil/counterfoil/schemas"
)

// noCalls finds nothing: these tests have no ClickHouse.
type noCalls struct{}

func (noCalls) FindCalls(context.Context, []schemas.CallQuery) ([]schemas.CallsFound, error) {
	return nil, errors.New("there are no calls here")
}

// judge runs the processors until the test ends.
func (x *tools) judge(t *testing.T) {
	t.Helper()
	adm := kadm.NewClient(x.client)
	cfg, err := env.ParseAsWithOptions[processors.Config](env.Options{Environment: map[string]string{"SESSION_TIMEOUT": "2s", "TRANSACTION_TIMEOUT": "2s"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	for _, name := range processors.Names() {
		starts, err := adm.ListStartOffsets(t.Context(), processors.Topics(name)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := adm.CommitAllOffsets(t.Context(), processors.Group(name), starts.Offsets()); err != nil {
			t.Fatal(err)
		}
		p, err := processors.New(cfg, processors.Deps{Kafka: x.broker.Opts(), Registry: x.registry, Epochs: schemas.Epochs{}, Calls: noCalls{},
			Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}, name)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// TestUpstreamWay sends the referrals of the printed example, and an event, as an upstream system does, right behind the demo data: nothing
// has been judged yet when the last is sent, and still the outcomes are the printed ones.
func TestUpstreamWay(t *testing.T) {
	x := newTools(t)
	if err := fillDemo(t.Context(), x.client, x.registry); err != nil {
		t.Fatal(err)
	}
	common := `"unit":{"name":"Admin Unit"},"performed_on":"2016-06-22T15:00:00"`
	x.good(t, `{"ref":"125",`+common+`,"referred":{"number":"RP0000000017"},"referred_by":{"number":"RP0000000010"}}
{"ref":"124",`+common+`,"referred":{"number":"RP0000000014"},"referred_by":{"number":"RP0000000012"}}
{"ref":"123",`+common+`,"referred":{"number":"RP0000000004"},"referred_by":{"number":"RP0000000010"}}
`, "send", "referrals", "-", "--tenant", "demo", "--ref-field", "ref")
	x.good(t, `{"ref":"06",`+common+`,"kind":"web","account":{"number":"ACR0000000020"},"website":"www.crm.com"}
{"ref":"08",`+common+`,"kind":"web","account":{"number":"ACR00045000"},"website":"www.crm.com"}
`, "send", "customer_events", "-", "--tenant", "demo", "--ref-field", "ref")
	x.judge(t)

	type outcome struct {
		Ref     string
		Reasons []struct{ Code, Field, Value string }
	}
	got := map[string]string{}
	for start := time.Now(); len(got) < 6; time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatalf("after 20 s there are outcomes of %v only", got)
		}
		for _, topic := range []string{"referrals.processed", "referrals.unprocessed", "customer_events.processed", "customer_events.unprocessed"} {
			for _, l := range lines[tailed](t, x.good(t, "", "tail", topic, "--from", "start")) {
				var o outcome
				if err := json.Unmarshal(l.Value, &o); err != nil {
					t.Fatalf("%s: %v", l.Value, err)
				}
				got[o.Ref] = "processed"
				for _, r := range o.Reasons {
					got[o.Ref] = r.Code + " " + r.Field + " " + r.Value
				}
			}
		}
	}
	want := map[string]string{"demo-referral-1": "processed", "125": "processed", "124": "processed", "123": "already_referred referred RP0000000004",
		"06": "processed", "08": "not_found account ACR00045000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
