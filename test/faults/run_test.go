package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/load"
)

// run is a cluster under load whose parts break. Several loads, of a tenant and a seed each, may use it one after the other.
type run struct {
	t            *testing.T
	c            *harness.Cluster
	conn         driver.Conn // of faults
	have         need
	samples      *sampler
	extraProcess *harness.Copy
	extraSink    *harness.Copy

	loads []*load.Load
	sent  []checker.Sent // of loads that have ended

	mu      sync.Mutex
	held    map[string]*sync.Mutex // what is being broken: nothing is broken twice at a time
	excuses []excuse
	counts  map[string]int // faults by name
}

// excuse is a time in which a copy may not have answered.
type excuse struct {
	url      string
	from, to time.Time
}

func newRun(t *testing.T, opts ...harness.Option) *run {
	t.Helper()
	r := &run{t: t, c: harness.StartCluster(t, append(opts, harness.Breakable(), harness.Supervised(), harness.Env("LOG_LEVEL=DEBUG"))...), held: map[string]*sync.Mutex{}, counts: map[string]int{}}
	b := r.c.Broken
	for need, met := range map[need]bool{
		ownKafka: b.Broker != nil, apache: b.Broker != nil && b.Broker.Apache(), fake: b.Broker != nil && !b.Broker.Apache(),
		ownRegistry: b.Registry != nil, ownClickHouse: b.ClickHouse != nil,
	} {
		if met {
			r.have |= need
		}
	}
	if len(r.wanted(catalogue)) == 0 {
		t.Fatalf("FAULT: no fault that can be done here has %q in its name", os.Getenv("FAULT"))
	}
	t.Cleanup(func() { // while everything still runs
		if t.Failed() {
			out, err := harness.TryRun(context.Background(), harness.Binary(t), r.c.Settings(), "", "lag")
			t.Logf("counterfoil lag: %v\n%s", err, out)
		}
	})
	r.conn = r.c.Conn()
	r.extraProcess, r.extraSink = r.c.Spare("process"), r.c.Spare("sink")
	r.samples = newSampler(t, &r.c.Parts)
	return r
}

// load starts the load of a seed, under a tenant of its own.
func (r *run) load(seed uint64, workers int) *load.Load {
	r.t.Helper()
	return r.bulk(seed, workers, 1)
}

// bulk is load with batches that are larger by a factor.
func (r *run) bulk(seed uint64, workers, factor int) *load.Load {
	r.t.Helper()
	tenant := fmt.Sprintf("load-%d", seed)
	client := load.Prepare(r.t, &r.c.Parts, r.c.Ingest[0].URL, tenant)
	l := load.StartBulk(r.t, &r.c.Parts, fmt.Sprint("s", seed), seed, workers, factor, client, client.At(r.c.Ingest[1].URL))
	r.loads = append(r.loads, l)
	return l
}

// hands are the seeds that share a deck, the catalogue in an order of its own: any so many seeds, from a multiple of it on, play all of it that can
// be done. What only kfake can do is in the first hands and what only Apache Kafka can do in the last, so that they do so together where the first
// half of them is played on kfake and the other on Apache Kafka, as in CI.
const hands = 4

// deal returns the deck of a seed, of which its hand comes first.
func deal(seed uint64) (hand, rest []fault) {
	deck := shuffled(rand.New(rand.NewPCG(seed/hands, 1<<33)))
	slices.SortStableFunc(deck, func(a, b fault) int { return half(a) - half(b) })
	k := int(seed % hands)
	from, to := k*len(deck)/hands, (k+1)*len(deck)/hands
	return deck[from:to], slices.Concat(deck[to:], deck[:from])
}

func shuffled(r *rand.Rand) []fault {
	deck := slices.Clone(catalogue)
	r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// half is negative for what only kfake can do and positive for what only Apache Kafka can do.
func half(f fault) int {
	switch {
	case f.needs&fake != 0:
		return -1
	case f.needs&apache != 0:
		return 1
	}
	return 0
}

// wanted are the faults of a deck whose needs are met and whose names have the part that FAULT says.
func (r *run) wanted(deck []fault) []fault { return named(deck, os.Getenv("FAULT"), r.have) }

// schedule draws faults from a seed: first its hand, and each kind comes once before any comes again.
func (r *run) schedule(seed uint64) func() (f fault, dice *rand.Rand, pause time.Duration, beside bool) {
	dice, shuffle := rand.New(rand.NewPCG(seed, 1<<34)), rand.New(rand.NewPCG(seed, 1<<33))
	hand, rest := deal(seed)
	deck := r.wanted(slices.Concat(hand, rest))
	return func() (fault, *rand.Rand, time.Duration, bool) {
		if len(deck) == 0 {
			deck = r.wanted(shuffled(shuffle))
		}
		f := deck[0]
		deck = deck[1:]
		return f, rand.New(rand.NewPCG(dice.Uint64(), 0)), 200*time.Millisecond + time.Duration(dice.Int64N(int64(1500*time.Millisecond))), dice.IntN(3) == 0
	}
}

// hand is how many faults the short run of a seed has: one where its hand has none that are wanted.
func (r *run) hand(seed uint64) int {
	hand, _ := deal(seed)
	return max(1, len(r.wanted(hand)))
}

// breakThings carries out a seed's schedule until enough reports true, then lets everything recover. A third of the faults begin beside the one
// before them.
func (r *run) breakThings(seed uint64, enough func(faults int) bool) {
	r.t.Helper()
	draw := r.schedule(seed)
	var working sync.WaitGroup
	for n := 0; !enough(n) && !r.t.Failed(); n++ {
		f, dice, pause, beside := draw()
		if !beside {
			working.Wait()
		}
		time.Sleep(pause)
		r.mu.Lock()
		r.counts[f.name]++
		r.mu.Unlock()
		began := time.Now()
		working.Go(func() {
			f.do(r, dice)
			r.t.Logf("%s fault %d: %s, for %s; %d items so far", began.Format("15:04:05.000"), n+1, f.name, time.Since(began).Round(10*time.Millisecond), r.items())
		})
	}
	working.Wait()
	for _, copy := range r.c.All() {
		copy.WaitReady()
	}
}

// hold waits until nothing else breaks what has this name, and returns what ends that.
func (r *run) hold(name string) (release func()) {
	r.mu.Lock()
	m := r.held[name]
	if m == nil {
		m = new(sync.Mutex)
		r.held[name] = m
	}
	r.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// excuse notes the time of f as one in which copies may give no answer: they are not there, or they do not know whether Kafka committed a batch, and
// any answer would be a guess.
func (r *run) excuse(f func(), copies ...*harness.Copy) {
	from := time.Now()
	f()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, copy := range copies {
		r.excuses = append(r.excuses, excuse{copy.URL, from, time.Now()})
	}
}

// sql has ClickHouse carry out a statement, for as long as it refuses. It may be carried out without an answer, and again.
func (r *run) sql(statement string) {
	r.eventually(statement, func(ctx context.Context) error { return r.conn.Exec(ctx, statement) })
}

// eventually does something until it succeeds.
func (r *run) eventually(what string, do func(ctx context.Context) error) {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// check ends a load, lets everything be judged and written, and proves that every promise held. It reports whether it did.
func (r *run) check(l *load.Load) bool {
	r.t.Helper()
	sent := l.Stop()
	r.sent = append(r.sent, sent...)
	began := time.Now()
	r.c.WaitDrained(5 * time.Minute)
	drained := time.Since(began)
	r.t.Logf("%s; no lag after %s; %s", l.Summary(), drained.Round(time.Millisecond), r.samples.summary())
	checker.Prove(r.t, &r.c.Parts, r.sent, func(w *checker.World) []string {
		return slices.Concat(l.Wrong(), r.unanswered(l), r.jobs(l), dead(w, l), r.samples.found())
	})
	accepted := 0
	for _, s := range sent {
		if s.Verdict == harness.Accepted {
			accepted++
		}
	}
	if accepted < len(sent)/10 || l.Items() < 100 {
		r.t.Errorf("only %d of %d requests were accepted, with %d items: the run proves little", accepted, len(sent), l.Items())
	}
	return !r.t.Failed()
}

// audit has the product's own command look for differences, once the checker has found none.
func (r *run) audit() {
	r.t.Helper()
	if out, err := harness.TryRun(r.t.Context(), harness.Binary(r.t), r.c.Settings(), "", "audit"); err != nil {
		r.t.Errorf("counterfoil audit: %v\n%s", err, out)
	}
}

// unanswered are requests that nobody answered though their copy could.
func (r *run) unanswered(l *load.Load) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range l.Unanswered() {
		if !slices.ContainsFunc(r.excuses, func(e excuse) bool { return e.url == u.URL && e.from.Before(u.To) && u.From.Before(e.to) }) {
			found = append(found, fmt.Sprintf("answers: %s took a request at %s and gave no answer until %s, though nothing was done to it: %v",
				u.URL, u.From.Format("15:04:05.000"), u.To.Format("15:04:05.000"), u.Err))
		}
	}
	return found
}

// jobs asks for the results of some of the requests whose callers were told to.
func (r *run) jobs(l *load.Load) (found []string) {
	jobs := l.Jobs()
	client := l.Client()
	for i := 0; i < len(jobs); i += 1 + len(jobs)/50 {
		a, err := client.Get(r.t.Context(), jobs[i])
		switch {
		case err != nil:
			found = append(found, fmt.Sprintf("jobs: %s: %v", jobs[i], err))
		case a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"pending":0`):
			found = append(found, fmt.Sprintf("jobs: %s is answered %d %s", jobs[i], a.Status, a.Body))
		}
	}
	return found
}

// dead finds records that nobody can read and that are no dead letters.
func dead(w *checker.World, l *load.Load) (found []string) {
	for _, at := range l.Unreadable() {
		if !w.Dead[at] {
			found = append(found, fmt.Sprintf("dead letters: the record at %s cannot be read and is none", at))
		}
	}
	return found
}

// summary is what a run was.
func (r *run) summary(seeds string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults, kinds int
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(&text, "\n  %4d %s", r.counts[name], name)
		faults += r.counts[name]
		kinds++
	}
	return fmt.Sprintf("seeds %s: %d items accepted, %d faults of %d kinds:%s", seeds, r.items(), faults, kinds, text.String())
}

// items is how many items were accepted so far.
func (r *run) items() (n int) {
	for _, l := range r.loads {
		n += l.Items()
	}
	return n
}

// number reads an environment variable; absent: the fallback.
func number(t testing.TB, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s is %q: not a number", name, text)
	}
	return n
}

// again is the command that repeats a run.
func again(test string, seed uint64, settings ...string) string {
	for _, name := range []string{"TEST_KAFKA", "FAULT", "FAULTS"} {
		if value := os.Getenv(name); value != "" {
			settings = append(settings, fmt.Sprintf("%s=%q", name, value))
		}
	}
	settings = append(settings, fmt.Sprintf("SEED=%d", seed))
	return fmt.Sprintf("%s go test -count=1 -timeout 12h -v -run '^%s$' ./test/faults", strings.Join(settings, " "), test)
}

// close ends everything, so that the next run has the machine.
func (r *run) close() {
	r.samples.stop()
	for _, copy := range append(r.c.All(), r.extraProcess, r.extraSink) {
		copy.Kill()
	}
}
