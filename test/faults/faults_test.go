package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { harness.Main(m) }

// seed is that of SEED, to repeat a run, or a random one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SEED=%d repeats the moments and the load of this run", n)
	return n
}

// TestFaults makes short runs, each with a few faults that a seed draws, and proves the promises after each. By default they are those of the seeds
// whose hands have the whole catalogue, on Apache Kafka and under the race detector those of one half of them each, with SOAK=1 those of 300
// others; SEEDS is how many, SEED the one to repeat, FAULTS how many faults each has (its hand), FAULT a part of the names of those that are wanted.
func TestFaults(t *testing.T) {
	var seeds []uint64
	many := 0
	if harness.Soak() && !stack.OnApache() {
		many = 300
	}
	switch n := number(t, "SEEDS", many); {
	case os.Getenv("SEED") != "":
		seeds = []uint64{seed(t)}
	case n > 0:
		first := uint64(rand.Uint32()) / hands * hands
		for i := range n {
			seeds = append(seeds, first+uint64(i))
		}
	case harness.Soak():
		t.Skip("TestSoak is one long run on Apache Kafka")
	default:
		seeds = []uint64{0, 1, 2, 3} // all kinds, and each half those that only its broker can do, see hands
		switch {
		case stack.OnApache():
			seeds = seeds[2:]
		case harness.Raced:
			seeds = seeds[:2]
		}
	}
	// What the checker reads grows with each seed: a stack serves some of them.
	for some := range slices.Chunk(seeds, 20) {
		r := newRun(t)
		for _, seed := range some {
			began := time.Now()
			t.Logf("seed %d", seed)
			l := r.load(seed, 6)
			hand := number(t, "FAULTS", r.hand(seed))
			r.breakThings(seed, func(faults int) bool { return faults == hand })
			if !r.check(l) {
				t.Fatalf("repeat it with: %s", again("TestFaults", seed))
			}
			t.Logf("seed %d held, after %s", seed, time.Since(began).Round(time.Second))
		}
		r.audit()
		t.Log(r.summary(fmt.Sprintf("%d to %d", some[0], some[len(some)-1])))
		r.close()
	}
}

// TestSoak is one long run: until SOAK_FOR is over, or else until there were FAULTS faults and ITEMS items were accepted.
func TestSoak(t *testing.T) {
	if !harness.Soak() {
		t.Skip("a long run: SOAK=1 and SOAK_FOR=30m, or FAULTS and ITEMS, say how long; make soak")
	}
	var limit time.Duration
	if text := os.Getenv("SOAK_FOR"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SOAK_FOR: %v", err)
		}
	}
	faults, items := number(t, "FAULTS", 200), number(t, "ITEMS", 1_000_000)
	seed, began := seed(t), time.Now()
	r := newRun(t)
	l := r.bulk(seed, 12, 6) // batches large enough for as many items
	r.breakThings(seed, func(n int) bool {
		if limit > 0 {
			return time.Since(began) > limit
		}
		return n >= faults && l.Items() >= items
	})
	held := r.check(l)
	r.audit()
	t.Log(r.summary(fmt.Sprint(seed)))
	if !held {
		t.Fatalf("repeat it with: %s", again("TestSoak", seed, "SOAK=1", "SOAK_FOR="+os.Getenv("SOAK_FOR"), fmt.Sprint("ITEMS=", items)))
	}
}

// `counterfoil up` survives kills of itself and of its ClickHouse.
func TestUpSurvivesKills(t *testing.T) {
	if stack.OnApache() || stack.GivenKafka() || stack.GivenRegistry() || !stack.OwnClickHouse() {
		t.Skip("breaks the parts that counterfoil up has of its own")
	}
	kills := 3
	if harness.Soak() {
		kills = 20
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 0))
	up := harness.StartUp(t, harness.Env("SESSION_TIMEOUT=2s", "TRANSACTION_TIMEOUT=2s", "SINK_SESSION_TIMEOUT=2s", "SINK_LEASE=2s"), harness.Args("--no-demo"))
	client := load.Prepare(t, &up.Parts, up.URL, load.Tenant)
	l := load.Start(t, &up.Parts, "up", n, 4, client)
	for kill := range kills {
		sleep(r, 500*time.Millisecond, 3*time.Second)
		began := time.Now()
		up.Kill()
		up.Restart()
		t.Logf("kill %d: ready again after %s", kill+1, time.Since(began).Round(time.Millisecond))
	}
	for range 1 + kills/5 {
		sleep(r, 500*time.Millisecond, 2*time.Second)
		up.KillPart(embedded.ClickHouse)
		sleep(r, 500*time.Millisecond, 2*time.Second)
	}
	up.WaitReady()
	sleep(r, 500*time.Millisecond, time.Second)
	sent := l.Stop()
	t.Logf("%d requests and records: %s", len(sent), l.Summary())
	up.WaitDrained(90 * time.Second)
	checker.Prove(t, &up.Parts, sent, func(w *checker.World) []string { return append(l.Wrong(), dead(w, l)...) })
	if l.Items() < 100 {
		t.Errorf("only %d items were accepted: the run proves little", l.Items())
	}
	up.Interrupt()
}
