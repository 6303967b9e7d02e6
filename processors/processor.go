// Package processors judges items: it reads the item topics, decides each item exactly once, and writes outcomes, state changes and
// consumed offsets in one Kafka transaction per round.
//
// A [Processor] is one consumer group with its own client and loop, so that what one kind waits for holds up no other. Its parts:
//
//   - life cycle: [Processor.Run] keeps a session alive and starts afresh when a commit's outcome is unknown (this file);
//   - session: one client, from joining the group to leaving it; owns the partitions and polls (session.go);
//   - round: what is polled at once is judged on an overlay of the state and committed whole (round.go);
//   - lane: one owned partition; judges its records in the order of their offsets (lane.go);
//   - kinds: how each kind of items is read, keyed and decided (kinds.go); the decisions themselves are pure and live in
//     processors/upserts, processors/validation and processors/matching;
//   - calls: what the decisions on sales must know of calls is asked for once a round (calls.go);
//   - requests: records of requests with an idempotency key are passed on instead of judged, once (requests.go);
//   - state: tables with a changelog (state.go), read back when a partition is taken over (takeover.go);
//   - attempts: replays are judged once each (attempts.go), and tried out beforehand on the same path ([Rehearsal], rehearsal.go);
//   - the reference tables and the barrier are processors/reference.
//
// Each guard that keeps items from being lost or doubled stands in one function: highWatermarks of a take-over in [session.restore],
// the barriers in [round.awaitReferences] and [round.awaitCalls], read committed in [schemas.ConsumeCommitted], the fresh client in [session.end],
// what was judged before in [lane.unjudged], other members' doings in [session.end] and [session.checkSkipped].
package processors

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/reference"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// Names of the processors.
const (
	Upserts    = "upserts"    // ownership
	Validation = "validation" // customer events, referrals and transactions
	Matching   = "matching"   // sales
	Requests   = "requests"   // requests with an idempotency key
)

// Names lists the processors.
func Names() []string { return []string{Upserts, Validation, Matching, Requests} }

// Group is the consumer group of a processor; empty for a name that is none.
func Group(name string) string { return groups[name] }

// transactionalIDs begin so for a processor; the instance follows.
func transactionalIDs(name string) string { return "process-" + name + "-" }

// OwnsTransaction reports whether a transactional id is that of a processor.
func OwnsTransaction(id string) bool {
	return slices.ContainsFunc(Names(), func(name string) bool { return strings.HasPrefix(id, transactionalIDs(name)) })
}

var groups = map[string]string{
	Upserts: schemas.GroupUpserts, Validation: schemas.GroupValidation, Matching: schemas.GroupMatching, Requests: schemas.GroupRequests,
}

// Topics lists the item topics that a processor reads, for whoever commits the first offsets of its group.
func Topics(name string) []string {
	var topics []string
	for _, k := range kindsOf(name) {
		topics = append(topics, k.name)
	}
	return topics
}

// Config is the configuration of a processor.
type Config struct {
	Instance           string        // name of this copy; empty: random, dynamic membership
	TransactionTimeout time.Duration `env:"TRANSACTION_TIMEOUT" envDefault:"10s" desc:"after this Kafka aborts a transaction whose process died"`
	SessionTimeout     time.Duration `env:"SESSION_TIMEOUT" envDefault:"10s" desc:"after this without a heartbeat a copy's partitions go to the others"`
	RoundRecords       int           `env:"ROUND_RECORDS" envDefault:"10000" desc:"most records that are judged in one transaction"`
	RoundTime          time.Duration `env:"ROUND_TIME" envDefault:"200ms" desc:"most time that judging one transaction's records should take"`
	DrainTimeout       time.Duration `env:"DRAIN_TIMEOUT" envDefault:"10s" desc:"how long a stopping copy may take to finish its round and leave"`
}

func (c *Config) Validate() error {
	var problems []error
	positive := func(name string, d time.Duration) {
		if d <= 0 {
			problems = append(problems, fmt.Errorf("%s must be more than 0, not %s", name, d))
		}
	}
	positive("TRANSACTION_TIMEOUT", c.TransactionTimeout)
	positive("ROUND_TIME", c.RoundTime)
	positive("DRAIN_TIMEOUT", c.DrainTimeout)
	if c.SessionTimeout < time.Second {
		problems = append(problems, fmt.Errorf("SESSION_TIMEOUT must be 1s or more, not %s", c.SessionTimeout))
	}
	if c.RoundRecords <= 0 {
		problems = append(problems, fmt.Errorf("ROUND_RECORDS must be more than 0, not %d", c.RoundRecords))
	}
	return errors.Join(problems...)
}

// Deps is what [New] needs.
type Deps struct {
	Kafka    []kgo.Opt // seeds, TLS, SASL
	Registry *schemas.Registry
	Epochs   schemas.Epochs
	Calls    Calls // [Matching] alone needs it
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Processor judges the items of its kinds, alone or beside other copies of its group.
type Processor struct {
	name     string
	cfg      Config
	instance string // never empty
	deps     Deps
	log      *slog.Logger
	kinds    []*kind
	tables   *reference.Tables // nil where no kind needs any
	sink     schemas.SinkProgress
	metrics  *metrics

	mu      sync.Mutex
	session *session // nil while none is up
}

// New makes the processor of that name, one of [Names]. It connects only in [Processor.Run].
func New(cfg Config, deps Deps, name string) (*Processor, error) {
	p := &Processor{name: name, cfg: cfg, instance: cfg.Instance, deps: deps, log: deps.Log.With("processor", name), kinds: kindsOf(name)}
	if len(p.kinds) == 0 {
		return nil, fmt.Errorf("there is no processor %q", name)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(p.kinds, func(k *kind) bool { return k.calls }) {
		p.deps.Calls = nil
	} else if deps.Calls == nil {
		return nil, fmt.Errorf("the processor %s needs to look calls up", name)
	}
	if p.instance == "" {
		p.instance = rand.Text()
	}
	registerer := prometheus.WrapRegistererWith(prometheus.Labels{"processor": name}, deps.Metrics)
	p.metrics = newMetrics(registerer)
	if topics := referencesOf(p.kinds); len(topics) > 0 {
		var err error
		p.tables, err = reference.New(topics, reference.Deps{
			Kafka: deps.Kafka, Registry: deps.Registry, Log: p.log, Metrics: registerer, Role: "process", Check: validation.CheckRecord,
		})
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Ready is nil when items are judged: the group is joined, the state of every owned partition is restored, and the reference tables are
// complete. A copy that legitimately owns no partition is ready.
func (p *Processor) Ready() error {
	if p.tables != nil {
		if err := p.tables.Ready(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	p.mu.Lock()
	s := p.session
	p.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%s: not connected", p.name)
	}
	if err := s.ready(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// Run judges until ctx is done; then it finishes or aborts its round, leaves the group (a static member stays, until its session
// times out) and returns nil within DrainTimeout. Any other return is an error after which the process should exit.
func (p *Processor) Run(ctx context.Context) error {
	// A round that is under way when ctx ends may still finish; work ends it.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.cfg.DrainTimeout, stop) })()

	failed := make(chan error, 1)
	var tables sync.WaitGroup
	if p.tables != nil {
		tables.Go(func() {
			if err := p.tables.Run(work); err != nil {
				failed <- err
				stop()
				end()
			}
		})
	}
	err := p.keepSession(ctx, work)
	stop()
	tables.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("processor %s: %w", p.name, err)
	default:
	}
	if err != nil {
		return fmt.Errorf("processor %s: %w", p.name, err)
	}
	return nil
}

// keepSession runs sessions until ctx is done or a person is needed.
func (p *Processor) keepSession(ctx, work context.Context) error {
	pause := 100 * time.Millisecond
	for {
		progress, err := p.runSession(ctx, work)
		if ctx.Err() != nil || work.Err() != nil {
			return nil
		}
		if fatal := p.needsPerson(err); fatal != nil {
			return fatal
		}
		if progress {
			pause = 100 * time.Millisecond
		}
		p.metrics.restarts.Inc()
		p.log.Warn("starting afresh from what is committed", "error", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// runSession returns whether the session committed anything, and why it ended.
func (p *Processor) runSession(ctx, work context.Context) (progress bool, err error) {
	s, err := openSession(ctx, work, p)
	if err != nil {
		return false, err
	}
	p.setSession(s)
	defer p.setSession(nil)
	err = s.run(ctx)
	s.close()
	return s.progress, err
}

func (p *Processor) setSession(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = s
}

// needsPerson returns the error with advice where starting afresh cannot help.
func (p *Processor) needsPerson(err error) error {
	var state *stateError
	switch {
	case errors.Is(err, kerr.FencedInstanceID):
		return fmt.Errorf("another process runs with the same INSTANCE=%s; give each copy its own: %w", p.instance, err)
	case errors.As(err, &state):
		return err
	case errors.Is(err, kerr.OffsetOutOfRange), isNoCommit(err):
		return fmt.Errorf("the group %s has no usable position; nothing is skipped: counterfoil migrate says what is amiss, and counterfoil adopt --offsets where the group must go on: %w", Group(p.name), err)
	}
	return nil
}
