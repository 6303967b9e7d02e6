package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// keysFlags are the flags of the actions of keys.
type keysFlags struct {
	tenant, doors, allowIP, note string
	rateLimit                    int
	json                         bool
}

// flagsOf says which flags each action takes.
var flagsOf = map[string][]string{
	"create":  {"tenant", "doors", "allow-ip", "rate-limit", "note", "json"},
	"list":    {"tenant", "json"},
	"disable": {"json"},
	"enable":  {"json"},
}

func keysCommand() *command {
	var opts keysFlags
	var flags *flag.FlagSet
	return &command{
		name:    "keys",
		args:    "create --tenant TENANT [flags] | list [--tenant TENANT] | disable ID | enable ID",
		summary: "make, list, disable and enable the keys with which callers log in",
		help: `A key opens the doors of one tenant. It is an id and a secret, id.secret, and is shown once, when it is created: the topic api_keys, which
every copy of ingest follows, holds only a hash of the secret. A change takes effect within a second.

Examples:
  counterfoil keys create --tenant acme --note "warehouse import"
  counterfoil keys create --tenant acme --doors helloid --allow-ip 10.1.0.0/16,192.0.2.7 --rate-limit 20
  counterfoil keys list --tenant acme
  counterfoil keys disable AB12cd

The doors are ` + strings.Join(ingest.Doors(), " and ") + `; the job URLs (/v1) that their answers name are open to every key of the tenant.
create writes the key alone to standard output, so that KEY=$(counterfoil keys create --tenant acme) works.`,
		flags: func(f *flag.FlagSet) {
			flags = f
			f.StringVar(&opts.tenant, "tenant", "", "the tenant that the key acts for; of list: show only its keys")
			f.StringVar(&opts.doors, "doors", "", "create: doors that the key opens, comma separated (default all)")
			f.StringVar(&opts.allowIP, "allow-ip", "", "create: addresses or prefixes from which the key may be used, comma separated (default any)")
			f.IntVar(&opts.rateLimit, "rate-limit", 0, "create: requests a second that the key may make (default no limit)")
			f.StringVar(&opts.note, "note", "", "create: what the key is for, shown by list")
			f.BoolVar(&opts.json, "json", false, "print JSON, one object a line")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			if len(args) == 0 {
				return badUsage("say what to do: create, list, disable or enable")
			}
			var err error
			action, allowed := args[0], flagsOf[args[0]]
			if allowed == nil {
				return badUsage("there is no action %q: use create, list, disable or enable", action)
			}
			flags.Visit(func(f *flag.Flag) {
				if !slices.Contains(allowed, f.Name) && err == nil {
					err = badUsage("--%s does not belong to keys %s", f.Name, action)
				}
			})
			if err != nil {
				return err
			}
			return runKeys(ctx, app, action, args[1:], &opts)
		},
	}
}

// runKeys does one action; args are what follows it.
func runKeys(ctx context.Context, app *app, action string, args []string, opts *keysFlags) error {
	byID := action == "disable" || action == "enable"
	switch {
	case byID && len(args) != 1:
		return badUsage("keys %s takes one key id, as keys list shows them", action)
	case !byID && len(args) > 0:
		return badUsage("keys %s takes no argument %q", action, args[0])
	}
	if action == "create" {
		if err := checkTenant(opts.tenant); err != nil {
			return err
		}
	}
	kafka, client, registry, err := reachTopics(ctx, app)
	if err != nil {
		return err
	}
	defer client.Close()
	store := &keyStore{topics: newTopicReader(kafka, warnings(app)), client: client, registry: registry}
	switch action {
	case "create":
		return store.create(ctx, app, opts)
	case "list":
		keys, err := store.list(ctx)
		if err != nil {
			return err
		}
		if opts.tenant != "" {
			keys = slices.DeleteFunc(keys, func(k *schemas.APIKey) bool { return k.Tenant != opts.tenant })
		}
		return printKeys(app.stdout, keys, opts.json)
	default:
		key, err := store.setEnabled(ctx, args[0], action == "enable")
		if err != nil {
			return err
		}
		if opts.json {
			return printKeys(app.stdout, []*schemas.APIKey{key}, true)
		}
		fmt.Fprintf(app.stdout, "key %s of tenant %s is %sd; every copy of ingest knows within a second\n", key.ID, key.Tenant, action)
		return nil
	}
}

// keyStore reads and writes the compacted topic api_keys.
type keyStore struct {
	topics   topicReader
	client   *kgo.Client // its partitioner takes the partition of the record
	registry *schemas.Registry
}

func (s *keyStore) create(ctx context.Context, app *app, opts *keysFlags) error {
	if opts.rateLimit < 0 || opts.rateLimit > 1e6 {
		return badUsage("--rate-limit is %d: choose 1 to 1000000 requests a second, or leave it out for no limit", opts.rateLimit)
	}
	o := ingest.KeyOptions{Doors: list(opts.doors), AllowedIPs: list(opts.allowIP), RateLimit: int32(opts.rateLimit), Note: opts.note}
	have, err := s.list(ctx)
	if err != nil {
		return err
	}
	var text string
	var key *schemas.APIKey
	for taken := true; taken; { // an id that is taken would take the other key's place at the door
		if text, key, err = ingest.NewKey(opts.tenant, o); err != nil {
			return usageError(err.Error())
		}
		taken = slices.ContainsFunc(have, func(k *schemas.APIKey) bool { return k.ID == key.ID })
	}
	if err := writeKey(ctx, s.client, s.registry, key); err != nil {
		return err
	}
	if opts.json {
		shown := shownKey(key)
		shown.Key = text
		return json.NewEncoder(app.stdout).Encode(shown)
	}
	fmt.Fprintln(app.stdout, text)
	fmt.Fprintf(app.stderr, "This is the key of tenant %s. Keep it now: only a hash of it is stored, and it is not shown again.\n"+
		"If it is lost: counterfoil keys disable %s, and create another.\n", key.Tenant, key.ID)
	return nil
}

// list returns the keys of all tenants, by tenant and age.
func (s *keyStore) list(ctx context.Context) ([]*schemas.APIKey, error) {
	starts, ends, err := endOffsets(ctx, kadm.NewClient(s.client), schemas.APIKeys)
	if err != nil {
		return nil, err
	}
	decoder := schemas.NewDecoder[schemas.APIKey](s.registry, schemas.APIKeySchema)
	live := map[string]*schemas.APIKey{}
	err = s.topics.read(ctx, schemas.APIKeys, starts, ends, func(rec *kgo.Record) (bool, error) {
		if rec.Value == nil {
			delete(live, string(rec.Key))
			return true, nil
		}
		key, err := decodeKey(ctx, decoder, rec.Value)
		if err != nil {
			return false, fmt.Errorf("key %s at offset %d of topic %s cannot be read: %w", rec.Key, rec.Offset, rec.Topic, err)
		}
		live[string(rec.Key)] = key
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	keys := make([]*schemas.APIKey, 0, len(live))
	for _, key := range live {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b *schemas.APIKey) int {
		if c := strings.Compare(a.Tenant, b.Tenant); c != 0 {
			return c
		}
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return keys, nil
}

// decodeKey waits for the writer's schema for up to ten seconds.
func decodeKey(ctx context.Context, decoder *schemas.Decoder[schemas.APIKey], value []byte) (*schemas.APIKey, error) {
	for start := time.Now(); ; {
		var key schemas.APIKey
		err := decoder.Decode(value, &key)
		switch {
		case err == nil:
			return &key, nil
		case !errors.Is(err, schemas.ErrSchemaPending):
			return nil, err
		case time.Since(start) > 10*time.Second:
			return nil, errors.New("the schema registry did not give its schema: is it running? SCHEMA_REGISTRY_URL says where")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// setEnabled changes one key and returns it.
func (s *keyStore) setEnabled(ctx context.Context, id string, enabled bool) (*schemas.APIKey, error) {
	keys, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(keys, func(k *schemas.APIKey) bool { return k.ID == id })
	if i < 0 {
		if id, _, isKey := strings.Cut(id, "."); isKey {
			return nil, fmt.Errorf("there is no key of that name: give the id alone, which is the part before the point: %s", id)
		}
		return nil, fmt.Errorf("there is no key %q: counterfoil keys list shows all", id)
	}
	key := keys[i]
	key.Enabled = enabled
	return key, writeKey(ctx, s.client, s.registry, key)
}

// writeKey writes a key's record. The client's partitioner must take the partition of the record or Kafka's own.
func writeKey(ctx context.Context, client *kgo.Client, registry *schemas.Registry, key *schemas.APIKey) error {
	encoder, err := registry.Encoder(ctx, schemas.APIKeys)
	if err != nil {
		return err
	}
	value, err := encoder.Append(nil, key)
	if err != nil {
		return fmt.Errorf("encode key %s: %w", key.ID, err)
	}
	env := schemas.Envelope{Tenant: key.Tenant, Reply: -1}
	rec := &kgo.Record{Topic: schemas.APIKeys, Key: schemas.ReferenceKey(key.Tenant, key.ID), Value: value, Headers: env.Headers(nil)}
	if err := client.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("write key %s to topic %s: %w", key.ID, schemas.APIKeys, err)
	}
	return nil
}

// keyJSON is a key as --json prints it; the hash of the secret stays where it is.
type keyJSON struct {
	ID         string    `json:"id"`
	Key        string    `json:"key,omitempty"` // id.secret, only when created
	Tenant     string    `json:"tenant"`
	Enabled    bool      `json:"enabled"`
	Doors      *[]string `json:"doors"`       // null: all
	AllowedIPs *[]string `json:"allowed_ips"` // null: any
	RateLimit  *int32    `json:"rate_limit"`  // requests a second; null: no limit
	Note       string    `json:"note"`
	CreatedAt  time.Time `json:"created_at"`
}

func shownKey(k *schemas.APIKey) keyJSON {
	return keyJSON{ID: k.ID, Tenant: k.Tenant, Enabled: k.Enabled, Doors: k.Doors, AllowedIPs: k.AllowedIPs, RateLimit: k.RateLimit,
		Note: k.Note, CreatedAt: k.CreatedAt}
}

// printKeys prints a table, or one JSON object a line.
func printKeys(w io.Writer, keys []*schemas.APIKey, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		for _, k := range keys {
			if err := enc.Encode(shownKey(k)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(keys) == 0 {
		fmt.Fprintln(w, "There are no keys. Make one: counterfoil keys create --tenant TENANT")
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tTENANT\tSTATE\tDOORS\tFROM\tRATE\tCREATED\tNOTE")
	for _, k := range keys {
		state, rate := "enabled", "no limit"
		if !k.Enabled {
			state = "disabled"
		}
		if k.RateLimit != nil {
			rate = fmt.Sprintf("%d/s", *k.RateLimit)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, state, oneCell(k.Doors, "all"), oneCell(k.AllowedIPs, "any"), rate,
			k.CreatedAt.UTC().Format("2006-01-02 15:04"), k.Note)
	}
	return table.Flush()
}

func oneCell(values *[]string, none string) string {
	if values == nil {
		return none
	}
	return strings.Join(*values, ",")
}

// list splits a comma-separated flag.
func list(flag string) []string {
	var all []string
	for part := range strings.SplitSeq(flag, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
