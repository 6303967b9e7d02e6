package stack_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/stack"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestApacheKafkaComesBack takes a broker through every fault that tests cause, and reads at the end what was
// acknowledged before each.
func TestApacheKafkaComesBack(t *testing.T) {
	if !stack.OnApache() {
		t.Skip("Apache Kafka is started with TEST_KAFKA=apache, by make test-kafka")
	}
	others := descendants(t)
	a := stack.ApacheKafka(t)
	b := a.Broker()
	b.CreateTopic(t, "faults", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client, err := kgo.NewClient(append(b.Opts(), kgo.ConsumeTopics("faults"), kgo.DefaultProduceTopic("faults"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	want := []string{"before", "stopped", "killed", "paused"}
	for _, step := range want {
		if err := client.ProduceSync(ctx, kgo.StringRecord(step)).FirstErr(); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		switch step {
		case "before":
			a.Stop(t)
			a.Start(t)
		case "stopped":
			a.Kill(t)
			a.Start(t)
		case "killed":
			a.Pause(t)
			var resumed sync.WaitGroup
			resumed.Go(func() {
				time.Sleep(time.Second)
				a.Resume(t)
			})
			t.Cleanup(resumed.Wait) // before the broker ends
		}
	}
	var got []string
	for len(got) < len(want) {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read only %q", got)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}

	if n := descendants(t) - others; n != 2 {
		t.Fatalf("a controller and a broker are running, and %d processes more than before", n)
	}
	a.Kill(t)
	if n := descendants(t) - others; n != 1 {
		t.Fatalf("a controller is running, and %d processes more than before", n)
	}
}

func descendants(t *testing.T) int {
	t.Helper()
	processes, err := stack.Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return len(processes)
}
