// Package load sends a mixture of requests and records for a tenant, from several workers, and keeps what each was told, for the checker. The
// mixture holds good and bad items of all kinds, changes of few keys from many callers, facts that are sent again and deleted, requests that are
// repeated, with their idempotency key until they have an answer and after it, and without one, items about as large as may be, records produced
// straight to Kafka, most of them to a wrong partition or to that of another client's partitioner, records that nobody can read, and rows that are
// refused at the door. It is drawn from a seed.
//
// Files: load.go the workers; requests.go what they send; records.go what is produced to Kafka.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

// Tenant is the name of the tenant that sends, where a test has only one.
const Tenant = "load"

// How many there are of what the mixture names.
const (
	accounts     = 50
	participants = 5000
	users        = 20
	products     = 10
	sales        = 40 // ids that sales share
	calls        = 200
	visitors     = 30 // MHIDs that calls share
	callers      = 50 // numbers that calls share
	lines        = 100
	customers    = 5
)

// Load is a running mixture.
type Load struct {
	name    string
	tenant  string
	clients []*harness.Client
	kafka   *kgo.Client
	n       int32 // partitions

	mu         sync.Mutex
	sent       []checker.Sent
	items      int            // of accepted requests and records
	why        map[string]int // what became of requests
	wrong      []string
	unanswered []Unanswered
	jobs       []string // where callers were told to ask
	unreadable []checker.Position

	stop context.CancelFunc
	done sync.WaitGroup
}

// Unanswered is a request of which the caller heard nothing.
type Unanswered struct {
	URL      string // of the copy
	From, To time.Time
	Err      error
}

// Prepare writes the references of a tenant that the mixture names, and a key, and logs in.
func Prepare(t testing.TB, p *harness.Parts, url, tenant string) *harness.Client {
	t.Helper()
	var records []*kgo.Record
	for i := range accounts {
		records = append(records, harness.References(p, schemas.Accounts, tenant, &schemas.Account{ID: harness.HexID(), Number: account(i)})...)
	}
	for i := range participants {
		records = append(records, harness.References(p, schemas.Participants, tenant, &schemas.Participant{ID: harness.HexID(), Number: participant(i)})...)
	}
	records = append(records, harness.References(p, schemas.Units, tenant, &schemas.Unit{ID: harness.HexID(), Name: "Unit"})...)
	records = append(records, harness.References(p, schemas.Products, tenant, &schemas.Product{ID: harness.HexID(), Code: "LAMP"})...)
	p.Produce(records...)
	c := harness.NewClient(url, p.CreateKey(tenant))
	c.LogIn(t)
	return c
}

func account(i int) string     { return fmt.Sprintf("ACR-%d", i) }
func participant(i int) string { return fmt.Sprintf("RP-%d", i) }

// Start starts workers that send until Stop, each to the clients in turn, and one that produces to Kafka, for the clients' tenant. name is part of
// every marker, and must differ between loads on the same data.
func Start(t testing.TB, p *harness.Parts, name string, seed uint64, workers int, clients ...*harness.Client) *Load {
	t.Helper()
	return StartBulk(t, p, name, seed, workers, 1, clients...)
}

// StartBulk is [Start] with batches that are larger by a factor.
func StartBulk(t testing.TB, p *harness.Parts, name string, seed uint64, workers, factor int, clients ...*harness.Client) *Load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n, err := harness.Partitions(t.Context(), p.Client(), schemas.KindOwnership)
	if err != nil {
		t.Fatal(err)
	}
	// One try: a record whose first try has no answer is one of unknown fate, and not this client's to send twice.
	kafka, err := kgo.NewClient(append(p.Kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordRetries(1), kgo.RecordDeliveryTimeout(5*time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	l := &Load{name: name, tenant: clients[0].Key.Tenant, clients: clients, kafka: kafka, n: int32(n), stop: cancel, why: map[string]int{}}
	for w := range workers {
		l.done.Go(func() { l.work(ctx, w, dice{rand.New(rand.NewPCG(seed, uint64(w))), factor}) })
	}
	producer := newProducer(t, p, l.tenant)
	l.done.Go(func() { l.produce(ctx, producer, dice{rand.New(rand.NewPCG(seed, 1<<32)), factor}) })
	t.Cleanup(func() {
		cancel()
		kafka.Close() // first: records for a broker that is gone would be waited for
		l.Stop()
	})
	return l
}

// Stop ends the workers and returns what they sent.
func (l *Load) Stop() []checker.Sent {
	l.stop()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// Sent is how many requests and records were sent so far.
func (l *Load) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sent)
}

// Items is how many items were in the requests and records that were accepted so far.
func (l *Load) Items() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.items
}

// Unanswered are the requests that nobody answered.
func (l *Load) Unanswered() []Unanswered {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unanswered
}

// Jobs are the addresses at which callers were told to ask for their results.
func (l *Load) Jobs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.jobs
}

// Unreadable are the records that must be dead letters.
func (l *Load) Unreadable() []checker.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unreadable
}

// Client is one of those that send.
func (l *Load) Client() *harness.Client { return l.clients[0] }

// Summary counts what became of requests.
func (l *Load) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.why)
}

func (l *Load) note(s checker.Sent, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Told = time.Now()
	l.sent = append(l.sent, s)
	if s.Verdict == harness.Accepted {
		l.items += s.Items
	}
	l.why[why]++
}

func (l *Load) work(ctx context.Context, worker int, r dice) {
	for n := 0; ctx.Err() == nil; n++ {
		marker := fmt.Sprintf("%s-%d-%d", l.name, worker, n)
		req := draw(marker, r)
		if r.IntN(6) == 0 { // a repeated request waits for ClickHouse, and holds its worker up
			l.insist(marker, req, r)
			continue
		}
		if l.try(marker, req, l.client(r)) == nil && r.IntN(2) == 0 {
			// The caller sends it again and cannot know that it is there. It is another request to us, and needs another marker here.
			marker += "-again"
			l.try(marker, req.again(marker), l.client(r))
		}
	}
}

// try sends a request once and notes its fate. One that is under way when the load stops is waited for: its fate should be known.
func (l *Load) try(marker string, req request, c *harness.Client) *harness.Answer {
	s := checker.Sent{Marker: marker, Items: req.items}
	answer := l.post(req, c)
	s.Verdict = answer.Verdict()
	l.note(s, told(answer))
	return answer
}

func (l *Load) client(r dice) *harness.Client { return l.clients[r.IntN(len(l.clients))] }

// post sends a request; the answer is nil where none came. Where the other side has trouble it pauses.
func (l *Load) post(req request, c *harness.Client) *harness.Answer {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	began := time.Now()
	answer, err := req.post(ctx, c)
	l.mu.Lock()
	switch {
	case err != nil:
		answer = nil
		l.unanswered = append(l.unanswered, Unanswered{c.URL, began, time.Now(), err})
	case answer.Status == http.StatusAccepted:
		job := answer.Header.Get("Location")
		if job == "" {
			l.wrong = append(l.wrong, fmt.Sprintf("202 without a place to ask: %s", answer.Body))
		} else {
			l.jobs = append(l.jobs, job)
		}
	}
	l.mu.Unlock()
	if answer == nil || answer.Status >= 500 {
		time.Sleep(50 * time.Millisecond)
	}
	return answer
}

func told(a *harness.Answer) string {
	if a == nil {
		return "no answer"
	}
	return fmt.Sprint(a.Status)
}

// insist sends a request with an idempotency key until its fate is known, perhaps to several copies in turn and two at a time, and then, perhaps,
// once more and with another body. All tries at one body are one request.
func (l *Load) insist(marker string, req request, r dice) {
	const tries = 20 // with their pauses enough for a restart
	client := func() *harness.Client { return l.client(r).Keyed(marker) }
	verdict, answered := harness.Unknown, ""
	add := func(a *harness.Answer) {
		switch v := a.Verdict(); {
		case verdict == harness.Unknown:
			verdict, answered = v, told(a)
		case v != harness.Unknown && v != verdict:
			l.complain("%s was answered with %s, and then %d %s", marker, answered, a.Status, a.Body)
		}
	}
	if r.IntN(3) == 0 {
		var racing sync.WaitGroup
		answers := make([]*harness.Answer, 2)
		for i := range answers {
			c := client()
			racing.Go(func() { answers[i] = l.post(req, c) })
		}
		racing.Wait()
		for _, a := range answers {
			add(a)
		}
		if answers[0].Verdict() == harness.Accepted && answers[1].Verdict() == harness.Accepted && answers[0].Replayed() == answers[1].Replayed() {
			l.complain("%s: two requests raced with one key, and both were answered with replayed = %t", marker, answers[0].Replayed())
		}
	}
	for n := 0; n < tries && verdict == harness.Unknown; n++ {
		if n > 0 {
			time.Sleep(200 * time.Millisecond)
		}
		add(l.post(req, client()))
	}
	l.note(checker.Sent{Marker: marker, Items: req.items, Verdict: verdict}, "with a key: "+answered)
	if verdict != harness.Accepted {
		return
	}
	if r.IntN(2) == 0 {
		a := l.post(req, client())
		add(a)
		if a.Verdict() == harness.Accepted && !a.Replayed() {
			l.complain("%s was accepted, and accepted anew when it was repeated", marker)
		}
	}
	if other := marker + "-other"; r.IntN(4) == 0 {
		// Another body of the same kind, by the same dice, at the same route.
		changed := req.again(other)
		a := l.post(changed, client())
		if a.Verdict() == harness.Accepted {
			l.complain("%s was accepted, and so was another body with its key", marker)
		}
		l.note(checker.Sent{Marker: other, Items: changed.items, Verdict: a.Verdict()}, "with a used key: "+told(a))
	}
}

// complain keeps what the answers alone show to be wrong.
func (l *Load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// Wrong is what the answers alone showed to be wrong.
func (l *Load) Wrong() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong
}
