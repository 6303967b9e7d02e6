package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Apache Kafka is killed between its decision on transactions and some of their markers, and comes back believing that it has written them all, as
// 4.3.1 has been seen to. Committed outcomes and commits of groups stay invisible then; adopt --transactions brings them back, and all promises hold.
func TestMarkersThatKafkaForgotAreWrittenByAdopt(t *testing.T) {
	if !stack.OnApache() || stack.GivenKafka() {
		t.Skip("takes markers out of the log of an Apache Kafka: TEST_KAFKA=apache")
	}
	r := newRun(t)
	n := seed(t)
	l := r.load(n, 4)
	harness.Eventually(t, time.Minute, func() string {
		if l.Items() < 300 {
			return fmt.Sprintf("%d items were accepted", l.Items())
		}
		return ""
	})
	// What is to be hidden was never visible: nobody reads it.
	for _, c := range r.c.Sink {
		c.Kill()
	}
	seen, more := ends(t, r), l.Items()+600
	harness.Eventually(t, time.Minute, func() string {
		if l.Items() < more {
			return fmt.Sprintf("%d items were accepted", l.Items())
		}
		return ""
	})
	l.Stop()
	harness.Eventually(t, time.Minute, func() string { return unjudged(t, r) }) // no transaction is being ended when Kafka is killed
	r.excuse(func() {
		var ending sync.WaitGroup // before the groups miss their members: commits are what they wrote last
		for _, c := range r.c.All() {
			ending.Go(c.Kill)
		}
		ending.Wait()
		written := ends(t, r)
		r.c.Broken.Broker.Kill()
		var lost []string
		for at, end := range written {
			if end > seen[at] && r.c.Broken.Broker.LoseMarker(at.topic, at.partition) {
				lost = append(lost, fmt.Sprintf("%s/%d", at.topic, at.partition))
			}
		}
		if len(lost) < 5 {
			t.Fatalf("markers were the last of %v only", lost)
		}
		r.c.Broken.Broker.Start()

		r.c.Sink[0].Start()
		r.c.Sink[0].WaitReady()
		adopt := func(args ...string) (out string, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			return harness.TryRun(ctx, harness.Binary(t), r.c.Settings(), "", append([]string{"adopt", "--transactions"}, args...)...)
		}
		if _, err := adopt("--yes"); err == nil || !strings.Contains(err.Error(), "members (counterfoil-sink") {
			t.Errorf("beside a role at work: %v", err)
		}
		r.c.Sink[0].Stop()

		out, err := adopt("--json")
		var found struct {
			Transactions []struct {
				ID         string   `json:"id"`
				Decided    string   `json:"decided"`
				Partitions []string `json:"partitions"`
			} `json:"transactions"`
		}
		if err != nil || json.Unmarshal([]byte(out), &found) != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var told []string
		decided := map[string]int{}
		for _, left := range found.Transactions {
			decided[left.Decided]++
			if left.Decided != "commit" && left.Decided != "abort" || left.ID == "" {
				t.Errorf("of %v it says that Kafka decided %q on transaction %q", left.Partitions, left.Decided, left.ID)
			}
			for _, at := range left.Partitions {
				partition, _, _ := strings.Cut(at, "@")
				told = append(told, partition)
			}
		}
		if decided["commit"] == 0 {
			t.Errorf("nothing committed is hidden: %v", decided)
		}
		slices.Sort(told)
		slices.Sort(lost)
		if !slices.Equal(told, lost) {
			t.Errorf("markers are missing in %v, it says in %v", lost, told)
		}
		if lag := r.leftBehind(time.Now()); len(lag) != len(lost) {
			t.Errorf("lag says %v", lag)
		}
		if out, err = adopt("--yes"); err != nil {
			t.Error(err)
		}
		t.Log(out)
		if out, err = adopt("--yes"); err != nil || !strings.Contains(out, "no transaction") {
			t.Errorf("a second time: %v: %s", err, out)
		}
		for _, c := range r.c.All() {
			c.Start()
		}
		for _, c := range r.c.All() {
			c.WaitReady()
		}
	}, r.c.Ingest...)
	if !r.check(l) {
		t.Errorf("repeat it with SEED=%d", n)
	}
	r.audit()
}

// unjudged says what processors have not judged yet, or which transaction is open. Sales wait for the sink.
func unjudged(t *testing.T, r *run) string {
	t.Helper()
	lag := r.lag(t.Context())
	for _, p := range lag.Partitions {
		if p.Group != schemas.GroupSink && p.Group != schemas.GroupMatching && p.Records > 0 {
			return fmt.Sprintf("%s is %d records behind in %s/%d", p.Group, p.Records, p.Topic, p.Partition)
		}
	}
	for _, o := range lag.Transactions {
		if o.LeftBehind {
			t.Errorf("transaction %s is left behind in %v, it says, though Kafka was not touched", o.ID, o.Partitions)
		}
	}
	if len(lag.Transactions) > 0 {
		return fmt.Sprintf("transactions are open: %+v", lag.Transactions)
	}
	return ""
}

// ends are where the partitions end that processors write to in transactions.
func ends(t *testing.T, r *run) map[place]int64 {
	t.Helper()
	topics := []string{"__consumer_offsets"}
	for _, topic := range schemas.Topics() {
		if topic.Role == schemas.RoleProcessed || topic.Role == schemas.RoleUnprocessed || topic.Role == schemas.RoleState {
			topics = append(topics, topic.Name)
		}
	}
	listed, err := kadm.NewClient(r.c.Client()).ListEndOffsets(t.Context(), topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	all := map[place]int64{}
	listed.Each(func(end kadm.ListedOffset) { all[place{topic: end.Topic, partition: end.Partition}] = end.Offset })
	return all
}

// leftBehind waits until every transaction of before a time has ended, or no coordinator is at work on it, and returns where the latter are open.
func (r *run) leftBehind(before time.Time) (all []string) {
	r.eventually("see the transactions end", func(ctx context.Context) error {
		asked := time.Now()
		lag, err := r.tryLag(ctx)
		if err != nil {
			return err
		}
		all = nil
		for _, t := range lag.Transactions {
			switch {
			case t.LeftBehind:
				all = append(all, t.Partitions...)
			case t.Seconds > asked.Sub(before).Seconds():
				return fmt.Errorf("transaction %s is open for %.1f s in %v", t.ID, t.Seconds, t.Partitions)
			}
		}
		return nil
	})
	return all
}
