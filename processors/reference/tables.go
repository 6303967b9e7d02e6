// Package reference keeps the reference topics (accounts, participants, units, …) whole in memory, finds their records by each of their
// identifiers, and waits until they hold everything that was acknowledged before.
//
//   - [Tables] tails the topics, one partition each, from their start, read committed (this file);
//   - an index per type decides which record an identifier finds (table.go);
//   - [Tables.WaitFor] is the barrier that makes reads causal (barrier.go);
//   - [View] is what a round judges against: it does not change while it is held (view.go).
//
// Records that cannot be read, and records whose key is not <tenant>/<own id>, are skipped here; the sink makes dead letters of them.
package reference

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// Deps is what [New] needs.
type Deps struct {
	Kafka    []kgo.Opt // seeds, TLS, SASL
	Registry *schemas.Registry
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Role     string // part of the metrics' names: counterfoil_<role>_reference_...
	// Check says what is wrong with a record, a pointer to its topic's Go type; such a record is skipped.
	Check func(topic string, record any) []schemas.Reason
}

// Tables are reference topics in memory. It is safe for concurrent use.
type Tables struct {
	client   *kgo.Client
	topics   []string
	log      *slog.Logger
	metrics  *metrics
	started  atomic.Bool // the tables have passed what was there when Run began
	problems rareLog

	mu       sync.RWMutex // guards what follows, and the content of every index
	tails    map[string]*tail
	advanced chan struct{} // closed and replaced whenever a position moved
	indexes  indexes
}

// tail is how far the reading of one topic has come.
type tail struct {
	table    table
	position int64         // every offset below it has been applied or skipped; markers count
	held     []*kgo.Record // not applied yet: the schema of the first is not known
	paused   bool          // fetching is, while records are held
}

// indexes are the tables by their types; those of topics that were not asked for stay empty.
type indexes struct {
	accounts            *index[schemas.Account, *schemas.Account]
	participants        *index[schemas.Participant, *schemas.Participant]
	units               *index[schemas.Unit, *schemas.Unit]
	classifications     *index[schemas.Classification, *schemas.Classification]
	products            *index[schemas.Product, *schemas.Product]
	paymentMediumTypes  *index[schemas.PaymentMediumType, *schemas.PaymentMediumType]
	paymentMediumBrands *index[schemas.PaymentMediumBrand, *schemas.PaymentMediumBrand]
	kpis                *index[schemas.KPI, *schemas.KPI]
	invoices            *index[schemas.Invoice, *schemas.Invoice]
	apiKeys             *index[schemas.APIKey, *schemas.APIKey]
}

// New makes the tables of topics, which must be reference topics. It does not read yet: see [Tables.Run].
func New(topics []string, deps Deps) (*Tables, error) {
	t := &Tables{
		topics:   slices.Clone(topics),
		log:      deps.Log.With("component", "reference"),
		tails:    map[string]*tail{},
		advanced: make(chan struct{}),
	}
	all := t.makeIndexes(deps)
	for _, topic := range topics {
		if all[topic] == nil {
			return nil, fmt.Errorf("%s is not a reference topic", topic)
		}
		t.tails[topic] = &tail{table: all[topic]}
	}
	client, err := kgo.NewClient(slices.Concat(deps.Kafka, schemas.ConsumeCommitted(), []kgo.Opt{kgo.FetchMaxWait(time.Second)})...)
	if err != nil {
		return nil, fmt.Errorf("reference tables: kafka client: %w", err)
	}
	t.client = client
	t.metrics = newMetrics(deps.Role, deps.Metrics, t)
	return t, nil
}

func (t *Tables) makeIndexes(d Deps) map[string]table {
	topic := func(name string) schemas.Topic {
		found, _ := schemas.TopicNamed(name)
		return found
	}
	x := &t.indexes
	x.accounts = newIndex[schemas.Account](d, topic(schemas.Accounts))
	x.participants = newIndex[schemas.Participant](d, topic(schemas.Participants))
	x.units = newIndex[schemas.Unit](d, topic(schemas.Units))
	x.classifications = newIndex[schemas.Classification](d, topic(schemas.Classifications))
	x.products = newIndex[schemas.Product](d, topic(schemas.Products))
	x.paymentMediumTypes = newIndex[schemas.PaymentMediumType](d, topic(schemas.PaymentMediumTypes))
	x.paymentMediumBrands = newIndex[schemas.PaymentMediumBrand](d, topic(schemas.PaymentMediumBrands))
	x.kpis = newIndex[schemas.KPI](d, topic(schemas.KPIs))
	x.invoices = newIndex[schemas.Invoice](d, topic(schemas.Invoices))
	x.apiKeys = newIndex[schemas.APIKey](d, topic(schemas.APIKeys))
	return map[string]table{
		schemas.Accounts:            x.accounts,
		schemas.Participants:        x.participants,
		schemas.Units:               x.units,
		schemas.Classifications:     x.classifications,
		schemas.Products:            x.products,
		schemas.PaymentMediumTypes:  x.paymentMediumTypes,
		schemas.PaymentMediumBrands: x.paymentMediumBrands,
		schemas.KPIs:                x.kpis,
		schemas.Invoices:            x.invoices,
		schemas.APIKeys:             x.apiKeys,
	}
}

// Run reads the topics until ctx is done, and then returns nil. Any other return means that the tables cannot be kept.
func (t *Tables) Run(ctx context.Context) error {
	defer t.client.Close()
	if err := t.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	go t.noteStart(ctx)
	for ctx.Err() == nil {
		wait, cancel := t.pollContext(ctx)
		fetches := t.client.PollRecords(wait, 10_000)
		cancel()
		if err := fetchError(fetches); err != nil && ctx.Err() == nil {
			return fmt.Errorf("reference tables: %w", err)
		}
		t.take(fetches)
	}
	return nil
}

// pollContext bounds a poll while a schema is awaited, so that its records are tried again soon.
func (t *Tables) pollContext(ctx context.Context) (context.Context, context.CancelFunc) {
	for _, tail := range t.tails {
		if len(tail.held) > 0 {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		}
	}
	return context.WithCancel(ctx)
}

// begin positions the client at the start of every topic.
func (t *Tables) begin(ctx context.Context) error {
	ask := map[string][]int32{}
	for _, topic := range t.topics {
		ask[topic] = []int32{0}
	}
	starts, err := retry(ctx, t.log, "find the starts of reference topics", func() (map[string]map[int32]int64, error) {
		return listOffsets(ctx, t.client, ask, earliest)
	})
	if err != nil {
		return err
	}
	from := map[string]map[int32]kgo.Offset{}
	t.mu.Lock()
	for topic, tail := range t.tails {
		tail.position = starts[topic][0]
		from[topic] = map[int32]kgo.Offset{0: kgo.NewOffset().At(tail.position)}
	}
	t.mu.Unlock()
	t.client.AddConsumePartitions(from)
	return nil
}

// noteStart marks the tables as ready once they hold what was there when they began.
func (t *Tables) noteStart(ctx context.Context) {
	begun := time.Now()
	if t.WaitFor(ctx, t.topics) == nil {
		t.started.Store(true)
		t.log.Info("reference tables are complete", "topics", t.topics, "after", time.Since(begun))
	}
}

// Ready is nil when the tables hold everything that was there at the start.
func (t *Tables) Ready() error {
	if !t.started.Load() {
		return errors.New("reference tables are not read to their end yet")
	}
	return nil
}

// take applies what was polled, after what is held of the same topic. A topic whose next record's schema is not known yet waits by itself.
func (t *Tables) take(fetches kgo.Fetches) {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved := false
	for _, tail := range t.tails {
		if len(tail.held) > 0 {
			held := tail.held
			tail.held = nil
			moved = t.applyAll(tail, held) || moved
		}
	}
	fetches.EachTopic(func(topic kgo.FetchTopic) {
		tail := t.tails[topic.Topic]
		if tail == nil {
			return // an injected error, not a topic
		}
		topic.EachPartition(func(p kgo.FetchPartition) {
			if len(tail.held) > 0 {
				tail.held = append(tail.held, p.Records...)
				return
			}
			moved = t.applyAll(tail, p.Records) || moved
		})
	})
	for name, tail := range t.tails {
		t.pace(name, tail)
	}
	if moved {
		close(t.advanced)
		t.advanced = make(chan struct{})
	}
}

// pace stops fetching a topic while records of it are held.
func (t *Tables) pace(name string, tail *tail) {
	if wanted := len(tail.held) > 0; wanted != tail.paused {
		tail.paused = wanted
		if partition := map[string][]int32{name: {0}}; wanted {
			t.client.PauseFetchPartitions(partition)
		} else {
			t.client.ResumeFetchPartitions(partition)
		}
	}
}

// applyAll applies records in order up to the first whose schema is awaited, and holds the rest.
func (t *Tables) applyAll(tail *tail, records []*kgo.Record) (moved bool) {
	for i, rec := range records {
		if !rec.Attrs.IsControl() {
			err := tail.table.apply(rec)
			if errors.Is(err, schemas.ErrSchemaPending) {
				tail.held = append(tail.held, records[i:]...)
				return moved
			}
			t.count(rec, err)
		}
		tail.position = rec.Offset + 1
		moved = true
	}
	return moved
}

func (t *Tables) count(rec *kgo.Record, err error) {
	t.metrics.records.WithLabelValues(rec.Topic).Inc()
	if err == nil {
		return
	}
	t.metrics.skipped.WithLabelValues(rec.Topic).Inc()
	if t.problems.allow() {
		t.log.Warn("reference record skipped", "topic", rec.Topic, "offset", rec.Offset, "error", err)
	}
}

// fetchError is the first error of a poll that no retry inside the client mends.
func fetchError(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) {
			continue
		}
		return fmt.Errorf("read %s partition %d: %w", e.Topic, e.Partition, e.Err)
	}
	return nil
}

// retry calls f until it succeeds or ctx is done.
func retry[T any](ctx context.Context, log *slog.Logger, what string, f func() (T, error)) (T, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		v, err := f()
		if err == nil || ctx.Err() != nil {
			return v, err
		}
		log.Warn("trying again", "what", what, "error", err)
		if err := sleep(ctx, pause); err != nil {
			return v, err
		}
	}
}

// rareLog lets one event a second through.
type rareLog struct{ last atomic.Int64 }

func (r *rareLog) allow() bool {
	now, last := time.Now().Unix(), r.last.Load()
	return now != last && r.last.CompareAndSwap(last, now)
}
