// Package load sends a mixture of requests and records for a tenant, from several workers, and keeps what each was told, for the checker. The
// mixture holds good and bad items of all kinds, changes of few keys from many callers, records produced straight to Kafka, half of them
// to a wrong partition, and rows that are refused at the door. It is drawn from a seed.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
)

// Tenant is the tenant that sends.
const Tenant = "load"

const (
	accounts     = 50
	participants = 5000
	users        = 20
	products     = 10
)

// Load is a running mixture.
type Load struct {
	name    string
	clients []*harness.Client
	kafka   *kgo.Client
	n       int32 // partitions

	mu   sync.Mutex
	sent []checker.Sent
	why  map[string]int // what became of requests

	stop context.CancelFunc
	done sync.WaitGroup
}

// Prepare writes the references that the mixture names, and a key, and logs in.
func Prepare(t testing.TB, p *harness.Parts, url string) *harness.Client {
	t.Helper()
	var records []*kgo.Record
	for i := range accounts {
		records = append(records, harness.References(p, schemas.Accounts, Tenant, &schemas.Account{ID: harness.HexID(), Number: account(i)})...)
	}
	for i := range participants {
		records = append(records, harness.References(p, schemas.Participants, Tenant, &schemas.Participant{ID: harness.HexID(), Number: participant(i)})...)
	}
	records = append(records, harness.References(p, schemas.Units, Tenant, &schemas.Unit{ID: harness.HexID(), Name: "Unit"})...)
	records = append(records, harness.References(p, schemas.Products, Tenant, &schemas.Product{ID: harness.HexID(), Code: "LAMP"})...)
	p.Produce(records...)
	c := harness.NewClient(url, p.CreateKey(Tenant))
	c.LogIn(t)
	return c
}

func account(i int) string     { return fmt.Sprintf("ACR-%d", i) }
func participant(i int) string { return fmt.Sprintf("RP-%d", i) }

// Start starts workers that send until Stop, each to the clients in turn, and one that produces to Kafka. name is part of every marker, and
// must differ between loads on the same data.
func Start(t testing.TB, p *harness.Parts, name string, seed uint64, workers int, clients ...*harness.Client) *Load {
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
	l := &Load{name: name, clients: clients, kafka: kafka, n: int32(n), stop: cancel, why: map[string]int{}}
	for w := range workers {
		l.done.Go(func() { l.work(ctx, w, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	values := make([][]byte, users)
	for i := range values {
		user, sku, by := fmt.Sprintf("User-%d", i), fmt.Sprintf("sku-%d", i%products), int64(i%5-1)
		values[i] = p.Encode(schemas.KindOwnership, &schemas.Ownership{UserName: &user, ProductSKU: &sku, IncreaseQuantityBy: &by})
	}
	l.done.Go(func() { l.produce(ctx, values, rand.New(rand.NewPCG(seed, 1<<32))) })
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

// Summary counts what became of requests.
func (l *Load) Summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.why)
}

func (l *Load) note(s checker.Sent, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, s)
	l.why[why]++
}

func (l *Load) work(ctx context.Context, worker int, r *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		marker := fmt.Sprintf("%s-%d-%d", l.name, worker, n)
		client := l.clients[r.IntN(len(l.clients))]
		// A request that is under way when the load stops is waited for: its fate should be known.
		call, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		items, answer, err := send(call, client, marker, r)
		cancel()
		s := checker.Sent{Marker: marker, Items: items, Verdict: answer.Verdict()}
		if err != nil {
			l.note(s, "no answer")
			time.Sleep(50 * time.Millisecond)
			continue
		}
		l.note(s, fmt.Sprint(answer.Status))
		if answer.Status >= 500 {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

type row map[string]any

// send sends one request of a kind that the dice choose.
func send(ctx context.Context, c *harness.Client, marker string, r *rand.Rand) (items int, answer *harness.Answer, err error) {
	switch r.IntN(5) {
	case 0, 1:
		changes := make([]row, 1+r.IntN(30))
		for i := range changes {
			ch := row{"UserName": fmt.Sprintf("user-%d", r.IntN(users)), "ProductSKU": fmt.Sprintf("SKU-%d", r.IntN(products)), "Source": checker.Mark(marker, i)}
			switch r.IntN(6) {
			case 0:
				ch["HasProduct"] = r.IntN(2) == 0
			case 1:
				ch["Quantity"] = r.IntN(10)
			case 2:
				ch["IncreaseQuantityBy"] = r.IntN(11) - 5
			}
			changes[i] = ch
		}
		answer, err = c.HelloID(ctx, changes)
		return len(changes), answer, err
	case 2:
		rows := make([]row, 1+r.IntN(50))
		for i := range rows {
			rows[i] = event(marker, i, r)
			rows[i]["website"] = "www.example.org"
			if r.IntN(20) == 0 {
				rows[i]["performed_on"] = []int{7} // refused at the door
			}
		}
		answer, err = c.Web(ctx, rows)
		return len(rows), answer, err
	case 3:
		rows := make([]row, 1+r.IntN(30))
		for i := range rows {
			rows[i] = event(marker, i, r)
			rows[i]["reference_number"] = marker
			rows[i]["products_set"] = []row{{"product_identifier": row{"code": "LAMP"}, "net_amount": 50, "vat_amount": 10, "total_amount": 60}}
		}
		answer, err = c.CRM(ctx, "purchases", "purchase_customer_events_set", rows)
		return len(rows), answer, err
	default:
		rows := make([]row, 1+r.IntN(5))
		for i := range rows {
			rows[i] = row{
				"request_unique_identifier": checker.Mark(marker, i), "performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22",
				"referred_rewards_participant_identifier":    row{"number": participant(r.IntN(participants))},
				"referred_by_rewards_participant_identifier": row{"number": participant(r.IntN(participants))},
			}
		}
		answer, err = c.CRM(ctx, "referrals", "referral_customer_events_set", rows)
		return len(rows), answer, err
	}
}

// event is what all kinds of rows need; one in ten names an account that does not exist.
func event(marker string, i int, r *rand.Rand) row {
	return row{
		"request_unique_identifier": checker.Mark(marker, i), "accounts_receivable_identifier": row{"number": account(r.IntN(accounts * 10 / 9))},
		"performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22T15:00:00",
	}
}

// produce writes changes of ownership straight to Kafka, in groups, to any partition.
func (l *Load) produce(ctx context.Context, values [][]byte, r *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		var records []*kgo.Record
		for i := range 1 + r.IntN(20) {
			env := schemas.Envelope{Tenant: Tenant, Reply: -1}
			ref := checker.Mark(fmt.Sprintf("%s-kafka-%d-%d", l.name, n, i), 0)
			env.Ref = &ref
			records = append(records, &kgo.Record{
				Topic: schemas.KindOwnership, Partition: r.Int32N(l.n), Value: values[r.IntN(len(values))], Headers: env.Headers(nil),
			})
		}
		call, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		for i, res := range l.kafka.ProduceSync(call, records...) {
			s := checker.Sent{Marker: fmt.Sprintf("%s-kafka-%d-%d", l.name, n, i), Items: 1, Verdict: harness.Accepted}
			if res.Err != nil {
				s.Verdict = harness.Unknown
			}
			l.note(s, map[bool]string{true: "produced", false: "not produced"}[res.Err == nil])
		}
		cancel()
		time.Sleep(50 * time.Millisecond)
	}
}
