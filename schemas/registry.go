package schemas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

// RegistryConfig says where the schema registry is.
type RegistryConfig struct {
	URL      []string `env:"SCHEMA_REGISTRY_URL" envSeparator:"," envDefault:"http://127.0.0.1:8081" desc:"schema registry addresses, comma separated"`
	User     string   `env:"SCHEMA_REGISTRY_USER" desc:"user for basic authentication at the registry"`
	Password string   `env:"SCHEMA_REGISTRY_PASSWORD" secret:"true" desc:"password for basic authentication at the registry"`

	// A schema id that the registry does not know is asked for again after ConfirmAfter; a second no is remembered for RememberFor.
	ConfirmAfter time.Duration `env:"SCHEMA_CONFIRM_AFTER" envDefault:"30s" desc:"wait before an unknown schema id is asked for again; its partition waits so long, once"`
	RememberFor  time.Duration `env:"SCHEMA_UNKNOWN_FOR" envDefault:"10m" desc:"how long a schema id that was confirmed unknown is taken for unknown"`
}

// Validate names every problem.
func (c *RegistryConfig) Validate() error {
	var problems []error
	for _, address := range c.URL {
		if u, err := url.Parse(address); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			problems = append(problems, fmt.Errorf("SCHEMA_REGISTRY_URL has %q: write http://host:port or https://host:port", address))
		}
	}
	if c.ConfirmAfter < 0 {
		problems = append(problems, fmt.Errorf("SCHEMA_CONFIRM_AFTER must be 0 or more, not %s", c.ConfirmAfter))
	}
	if c.RememberFor < 0 {
		problems = append(problems, fmt.Errorf("SCHEMA_UNKNOWN_FOR must be 0 or more, not %s", c.RememberFor))
	}
	return errors.Join(problems...)
}

// Registry is a client of the schema registry with a cache of writer schemas. It is safe for concurrent use.
type Registry struct {
	cfg    RegistryConfig
	client *sr.Client
	log    *slog.Logger

	mu      sync.Mutex
	writers map[int32]*writer
}

// writer is what is known of a schema id.
type writer struct {
	schema   *avro.Schema // set once known
	text     string
	unknown  time.Time // confirmed unknown at; zero otherwise
	fetching bool
}

// NewRegistry makes a client; it does not connect.
func NewRegistry(cfg RegistryConfig, log *slog.Logger) (*Registry, error) {
	opts := []sr.ClientOpt{sr.URLs(cfg.URL...), sr.HTTPClient(&http.Client{Timeout: 10 * time.Second})}
	if cfg.User != "" {
		opts = append(opts, sr.BasicAuth(cfg.User, cfg.Password))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("schema registry: %w", err)
	}
	return &Registry{cfg: cfg, client: client, log: log, writers: map[int32]*writer{}}, nil
}

// Client is the registry's client, for health checks.
func (r *Registry) Client() *sr.Client { return r.client }

// lookup finds the id under which schema is registered for subject.
func (r *Registry) lookup(ctx context.Context, subject string, schema *Schema) (int32, error) {
	found, err := r.client.LookupSchema(ctx, subject, sr.Schema{Schema: schema.text, Type: sr.TypeAvro})
	if err != nil {
		if isNotFound(err) {
			return 0, fmt.Errorf("the registry does not have our schema for %s: run counterfoil migrate first", subject)
		}
		return 0, fmt.Errorf("look up subject %s: %w", subject, err)
	}
	r.mu.Lock()
	r.writers[int32(found.ID)] = &writer{schema: schema.avro, text: schema.text}
	r.mu.Unlock()
	return int32(found.ID), nil
}

// WriterSchema returns the schema with the given id and its text. It never blocks: an id that is not known yet is looked up in the
// background and [ErrSchemaPending] returned until the answer is in; *[BadRecordError] says that the registry confirmed that there is none.
func (r *Registry) WriterSchema(id int32) (*avro.Schema, string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.writers[id]
	if w == nil {
		w = &writer{}
		r.writers[id] = w
	}
	switch {
	case w.schema != nil:
		return w.schema, w.text, nil
	case !w.unknown.IsZero() && time.Since(w.unknown) < r.cfg.RememberFor:
		return nil, "", &BadRecordError{Code: CodeUnknownSchema, Message: fmt.Sprintf("the registry has no schema with id %d", id)}
	case !w.fetching:
		w.fetching = true
		go r.fetch(id, w)
	}
	return nil, "", ErrSchemaPending
}

// fetch asks the registry until it has answered: with the schema, or twice, ConfirmAfter apart, that there is none. A registry that is out
// of reach is asked again for ever; it marks nothing bad.
func (r *Registry) fetch(id int32, w *writer) {
	var refused time.Time
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		found, err := r.client.SchemaByID(ctx, int(id))
		cancel()
		var schema *avro.Schema
		if err == nil {
			schema, err = ParseAvro(found.Schema)
			if err != nil {
				r.settle(w, func() { w.unknown = time.Now() })
				r.log.Error("schema of the registry is not valid Avro", "id", id, "error", err)
				return
			}
		}
		switch {
		case err == nil:
			r.settle(w, func() { w.schema, w.text = schema, found.Schema })
			return
		case isNotFound(err) && refused.IsZero():
			r.log.Warn("registry does not know a schema id; asking once more", "id", id, "after", r.cfg.ConfirmAfter)
			refused = time.Now()
			time.Sleep(r.cfg.ConfirmAfter)
			pause = 50 * time.Millisecond
		case isNotFound(err) && time.Since(refused) >= r.cfg.ConfirmAfter:
			r.settle(w, func() { w.unknown = time.Now() })
			return
		default:
			r.log.Warn("schema registry did not answer; asking again", "id", id, "error", err)
			time.Sleep(pause)
		}
	}
}

func (r *Registry) settle(w *writer, set func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set()
	w.fetching = false
}

func isNotFound(err error) bool {
	var re *sr.ResponseError
	if !errors.As(err, &re) {
		return false
	}
	return re.ErrorCode/100 == 404 || re.ErrorCode == 404 || re.StatusCode == http.StatusNotFound
}

// Register registers the value schemas of all topics, after checking each against every version that the registry holds of its subject,
// both ways (FULL_TRANSITIVE), whatever the registry's own setting says. Nothing is registered unless all pass; the error names every
// subject that is refused and why. With dryRun it only checks. It returns the subjects that were (or would be) registered anew.
func (r *Registry) Register(ctx context.Context, dryRun bool) (added []string, err error) {
	var problems []error
	for _, t := range topics {
		if t.Schema == nil {
			continue
		}
		subject := Subject(t.Name)
		have, err := r.client.Schemas(ctx, subject)
		if err != nil && !isNotFound(err) {
			return nil, fmt.Errorf("read versions of %s: %w", subject, err)
		}
		known := false
		for _, version := range have {
			if err := compatible(version, t.Schema); err != nil {
				problems = append(problems, fmt.Errorf("%s: version %d: %w", subject, version.Version, err))
			}
			known = known || version.Schema.Schema == t.Schema.text
		}
		if !known {
			added = append(added, t.Name)
		}
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("schemas are not compatible with what is registered, nothing was changed: %w", errors.Join(problems...))
	}
	if dryRun {
		return added, nil
	}
	for _, t := range topics {
		if !slices.Contains(added, t.Name) {
			continue
		}
		if _, err := r.client.CreateSchema(ctx, Subject(t.Name), sr.Schema{Schema: t.Schema.text, Type: sr.TypeAvro}); err != nil {
			return nil, fmt.Errorf("register %s: %w", Subject(t.Name), err)
		}
	}
	return added, nil
}

// compatible checks that each of the two schemas can read what the other wrote.
func compatible(version sr.SubjectSchema, ours *Schema) error {
	theirs, err := ParseAvro(version.Schema.Schema)
	if err != nil {
		return fmt.Errorf("is not valid Avro: %w", err)
	}
	if err := avro.CheckCompatibility(theirs, ours.avro); err != nil {
		return fmt.Errorf("what it wrote cannot be read by ours: %w", err)
	}
	if err := avro.CheckCompatibility(ours.avro, theirs); err != nil {
		return fmt.Errorf("cannot read what ours writes: %w", err)
	}
	return nil
}
