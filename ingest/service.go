package ingest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/counterfoil/counterfoil/schemas"
)

// Service is the ingest role.
type Service struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	mux      *http.ServeMux
	listener net.Listener
	metrics  *metrics
	tokens   *Tokens
	headers  *schemas.Decoder[schemas.BatchHeader]
	started  time.Time

	rates   rates
	budget  *budget
	replies *replies
	backlog *backlog
	sink    schemas.SinkProgress

	queue     chan *submission // to the producers
	stopped   chan struct{}    // closed when the producers have ended
	producers []*producer
	route     atomic.Pointer[routing] // nil until connected
	draining  context.Context         // done when no more is accepted
	drain     context.CancelFunc      // makes it so
}

// routing is what publishing needs to know of the cluster; it does not change while the service runs, because partition counts never do.
type routing struct {
	partitions map[string]int32 // by topic
	encoders   map[string]*schemas.Encoder
	reply      []int32 // partitions of the result topics that are tailed
	admin      *kadm.Client
	client     *kgo.Client // under admin
}

// New checks the configuration, binds the HTTP address and wires the parts; it does not talk to Kafka yet. Adapters register on
// [Service.Mux] before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Instance == "" {
		cfg.Instance = rand.Text()
	}
	s := &Service{
		cfg: cfg, deps: deps, log: deps.Log.With("role", "ingest"), mux: http.NewServeMux(), tokens: NewTokens(cfg.TokenSecrets),
		headers: schemas.NewDecoder[schemas.BatchHeader](deps.Registry, schemas.BatchHeaderSchema),
		budget:  newBudget(cfg.ByteBudget), queue: make(chan *submission, 1024), stopped: make(chan struct{}),
	}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.replies = newReplies(s)
	s.backlog = newBacklog(s)
	for n := range cfg.Producers {
		s.producers = append(s.producers, &producer{s: s, id: fmt.Sprintf("ingest-%d-%s", n, cfg.Instance)})
	}
	var err error
	if s.metrics, err = newMetrics(deps.Metrics, s); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if s.listener, err = listen(cfg.Addr); err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

// Ready is nil when a posted item would be accepted and its outcome found. The error names everything that is missing, and no address of
// ours: it is shown to whoever asks.
func (s *Service) Ready() error {
	select {
	case <-s.draining.Done():
		return errors.New("ingest: stopping")
	default:
	}
	if s.route.Load() == nil {
		return errors.New("ingest: not connected to Kafka and the schema registry yet; the log says why")
	}
	var errs []error
	for _, p := range s.producers {
		if !p.up.Load() {
			errs = append(errs, fmt.Errorf("ingest: producer %s is not connected", p.id))
		}
	}
	if !s.replies.positioned.Load() {
		errs = append(errs, errors.New("ingest: result topics are not read yet"))
	}
	if err := s.deps.Keys.Ready(); err != nil {
		errs = append(errs, fmt.Errorf("ingest: api keys: %w", err))
	}
	if err := s.backlog.ready(); err != nil {
		errs = append(errs, fmt.Errorf("ingest: %w", err))
	}
	return errors.Join(errs...)
}

// Run serves until ctx is done: then it accepts no more, lets what is at work finish, and returns nil. Any other return is fatal.
func (s *Service) Run(ctx context.Context) error {
	s.started = time.Now()
	// The parts end in the order of the flow: HTTP first, then the producers, and last what their answers come through.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	flow, fctx := errgroup.WithContext(ctx)
	rest := new(errgroup.Group)

	flow.Go(func() error { return s.serve(fctx) })
	rest.Go(func() error {
		defer close(s.stopped)
		rt, err := s.connect(parts)
		if err != nil {
			return nil //nolint:nilerr // stopped while connecting
		}
		defer rt.client.Close()
		s.route.Store(rt)
		running, rctx := errgroup.WithContext(parts)
		running.Go(func() error { return s.replies.run(rctx, rt) })
		running.Go(func() error { return s.backlog.run(rctx, rt) })
		for _, p := range s.producers {
			running.Go(func() error { return p.run(rctx) })
		}
		return running.Wait()
	})
	// A part that fails ends the service as a stop does.
	flow.Go(func() error {
		select {
		case <-s.stopped:
			if fctx.Err() == nil {
				return errors.New("ingest: a part ended")
			}
		case <-fctx.Done():
		}
		return nil
	})
	served := flow.Wait()
	stop()
	if err := rest.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil && served == nil {
		return nil
	}
	return served
}

// connect finds the topics' partitions and the schemas' ids. It tries until ctx is done: a service that starts before its cluster, or
// before migrate has run, is not ready, and says why.
func (s *Service) connect(ctx context.Context) (*routing, error) {
	client, err := kgo.NewClient(slices.Clone(s.deps.Kafka)...)
	if err != nil {
		return nil, err
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		rt, err := s.discover(ctx, client)
		if err == nil {
			return rt, nil
		}
		if ctx.Err() == nil {
			s.log.Warn("not connected yet", "error", err)
		}
		select {
		case <-ctx.Done():
			client.Close()
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// itemKinds are the kinds whose items processors judge. A kind is also the name of its item topic.
var itemKinds = []string{schemas.KindOwnership, schemas.KindCustomerEvents, schemas.KindReferrals, schemas.KindSales, schemas.KindTransactions}

// recordTopics are the reference and fact topics that can be written to through the API. Keys are not: only operators make them.
var recordTopics = func() (names []string) {
	for _, t := range schemas.Topics() {
		if t.Role == schemas.RoleFact || t.Role == schemas.RoleReference && t.Name != schemas.APIKeys {
			names = append(names, t.Name)
		}
	}
	return names
}()

// resultKinds are the kinds that have result topics.
var resultKinds = append(slices.Clone(itemKinds), schemas.References)

// resultTopics are the topics of outcomes.
func resultTopics() (names []string) {
	for _, k := range resultKinds {
		names = append(names, schemas.ProcessedTopic(k), schemas.UnprocessedTopic(k))
	}
	return names
}

// resultKind is the kind whose result topics have the outcomes of a batch's kind.
func resultKind(kind string) string {
	if slices.Contains(recordTopics, kind) {
		return schemas.References
	}
	return kind
}

func (s *Service) discover(ctx context.Context, client *kgo.Client) (*routing, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rt := &routing{partitions: map[string]int32{}, encoders: map[string]*schemas.Encoder{}, client: client, admin: kadm.NewClient(client)}
	results := resultTopics()
	names := slices.Concat([]string{schemas.Batches, schemas.Requests, schemas.RequestAnswers}, itemKinds, recordTopics, results)
	found, err := rt.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("read the topics of the cluster: %w", err)
	}
	for _, name := range names {
		t := found[name]
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition) || t.Err == nil && len(t.Partitions) == 0:
			return nil, fmt.Errorf("topic %s is not there: run counterfoil migrate first", name)
		case t.Err != nil:
			return nil, fmt.Errorf("read topic %s: %w", name, t.Err)
		}
		rt.partitions[name] = int32(len(t.Partitions))
		if name == schemas.Requests { // its values are those of the others
			continue
		}
		// The encoders of processed outcomes are not used; looking them up makes their schemas known to the decoders.
		if rt.encoders[name], err = s.deps.Registry.Encoder(ctx, name); err != nil {
			return nil, err
		}
	}
	// The reply partition of a batch is the same number in every result topic.
	partitions := rt.partitions[results[0]]
	for _, t := range append(results, schemas.RequestAnswers) {
		if rt.partitions[t] != partitions {
			return nil, fmt.Errorf("topic %s has %d partitions and not %d, as the other result topics have", t, rt.partitions[t], partitions)
		}
	}
	rt.reply = choose(partitions, s.cfg.ReplyPartitions)
	return rt, nil
}
