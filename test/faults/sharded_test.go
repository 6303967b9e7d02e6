package faults

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

// On a ClickHouse cluster of two shards the promises hold while its servers are killed, and stay away for longer than a lease, and copies of the
// roles that write to and read from them are killed and stopped beside. With TEST_CLICKHOUSE=sharded the other tests run there too, without the
// faults of ClickHouse.
func TestShardsSurviveKills(t *testing.T) {
	if stack.GivenClickHouse() || stack.InContainers() {
		t.Skip("kills servers of ClickHouse, which are not ours here")
	}
	breaks := 4
	if harness.Soak() {
		breaks = 60
	}
	n := seed(t)
	dice := rand.New(rand.NewPCG(n, 0))
	r := newRun(t, harness.Sharded())
	l := r.load(n, 2)
	server := func(f func(*stack.CH)) { f(pick(dice, r.c.CH.Nodes)) }
	faults := []struct {
		name string
		do   func()
	}{
		{"kill a server", func() { server(func(node *stack.CH) { node.Kill(t) }) }},
		{"a server is away", func() {
			server(func(node *stack.CH) {
				node.Stop(t)
				sleep(dice, beyondSession, 5*time.Second)
				node.Start(t)
			})
		}},
		{"kill a server, and a copy of the sink", func() {
			server(func(node *stack.CH) { node.Kill(t) })
			r.killCopy(pick(dice, r.c.Sink), dice)
		}},
		{"stop sink", func() { r.stopCopy(pick(dice, r.c.Sink), dice) }},
		{"kill process", func() { r.killCopy(pick(dice, r.c.Process), dice) }},
	}
	for n := range breaks {
		fault := faults[n%len(faults)]
		if n >= len(faults) {
			fault = pick(dice, faults)
		}
		sleep(dice, 500*time.Millisecond, 1500*time.Millisecond)
		began := time.Now()
		fault.do()
		t.Logf("%s, for %s", fault.name, time.Since(began).Round(10*time.Millisecond))
	}
	sleep(dice, 500*time.Millisecond, time.Second)
	for _, copy := range r.c.All() {
		copy.WaitReady()
	}
	if !r.check(l) {
		t.Fatalf("repeat it with: %s", again("TestShardsSurviveKills", n))
	}
	for i, node := range r.c.CH.Nodes {
		if rows := node.Exec(t, fmt.Sprintf("SELECT sum(total_rows) FROM system.tables WHERE database = '%s' AND name IN ('ownership_local', 'customer_events_local')", r.c.Database)); rows == "0" {
			t.Errorf("shard %d has no rows of these tables", i+1)
		}
	}
	r.c.Counterfoil("", "audit")
	r.c.Counterfoil("", "lag")
}
