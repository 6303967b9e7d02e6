package clickhouse

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is one numbered file of SQL statements.
type Migration struct {
	Number   int
	Name     string   // the file's name without number and ending
	Checksum string   // SHA-256 of the file, hex
	texts    []string // of the files up to this one: it knows the queries that they define
}

// Step is a migration that one node lacks, with its statements as that node gets them.
type Step struct {
	Node       string // host:port
	Migration  Migration
	Statements []string
}

// String names the step for people.
func (s Step) String() string {
	return fmt.Sprintf("%04d_%s on %s (%d statements)", s.Migration.Number, s.Migration.Name, s.Node, len(s.Statements))
}

// Migrations are all that this binary knows, in their order.
func Migrations() ([]Migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []Migration
	var texts []string
	for _, path := range names {
		text, err := migrationFiles.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		number, name, _ := strings.Cut(file, "_")
		n, err := strconv.Atoi(number)
		if err != nil || n != len(all)+1 {
			return nil, fmt.Errorf("migration %s: numbers must run from 0001 without a gap", path)
		}
		sum := sha256.Sum256(text)
		texts = append(texts, string(text))
		all = append(all, Migration{Number: n, Name: name, Checksum: hex.EncodeToString(sum[:]), texts: slices.Clone(texts)})
	}
	return all, nil
}

// Migrate brings every node to the newest tables and returns what it did; with dryRun it changes nothing and returns what it would do.
//
// It may run twice, and twice at the same time: every statement can be repeated, and a migration is recorded after its statements, so that
// one that was cut short is run again whole. A recorded migration whose file has changed since is an error; one that a newer binary
// recorded is left alone, because every statement of ours names its columns and works on newer tables. Each run makes the views of
// analysts anew, which is no step: nothing of ours depends on them.
//
// On a cluster each node is migrated over its own connection, because ON CLUSTER is refused by the embedded engine and needs a Keeper path
// of its own elsewhere. Replicated engines are written here and reviewed, but not tested: the engine that the tests use cannot replicate.
func (c *Conn) Migrate(ctx context.Context, dryRun bool) ([]Step, error) {
	all, err := Migrations()
	if err != nil {
		return nil, err
	}
	var steps []Step
	for i := range c.nodes {
		done, err := c.migrateNode(ctx, &c.nodes[i], all, dryRun)
		steps = append(steps, done...)
		if err != nil {
			return steps, fmt.Errorf("migrate ClickHouse %s: %w", c.nodes[i].addr, err)
		}
	}
	if dryRun {
		return steps, nil
	}
	return steps, c.shareRecords(ctx)
}

// bookkeeping are the tables that migrate itself needs. They are not replicated: each node has its own, and all are written alike.
const bookkeeping = `
CREATE DATABASE IF NOT EXISTS {{database}};
CREATE TABLE IF NOT EXISTS {{table "migrations"}} (number UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = MergeTree ORDER BY number {{settings}};
CREATE TABLE IF NOT EXISTS {{table "topic_epochs"}} (topic String, topic_id String, epoch Int32, base Int64, recorded_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = MergeTree ORDER BY (topic, epoch) {{settings}};
ALTER TABLE {{table "topic_epochs"}} ADD COLUMN IF NOT EXISTS base Int64;
CREATE TABLE IF NOT EXISTS {{table "group_starts"}} (topic String, epoch Int32, group String, recorded_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = MergeTree ORDER BY (topic, epoch, group) {{settings}};
`

func (c *Conn) migrateNode(ctx context.Context, n *node, all []Migration, dryRun bool) ([]Step, error) {
	recorded, err := c.recorded(ctx, n)
	if err != nil {
		return nil, err
	}
	if !dryRun {
		statements, err := c.render(n, bookkeeping)
		if err != nil {
			return nil, err
		}
		for _, s := range statements {
			if err := n.Exec(ctx, s); err != nil {
				return nil, fmt.Errorf("%s: %w", firstLine(s), err)
			}
		}
	}
	var steps []Step
	for _, m := range all {
		if sum, ok := recorded[m.Number]; ok {
			if sum != m.Checksum {
				return steps, fmt.Errorf("migration %04d_%s was changed after it had been applied (checksum %.12s, now %.12s)", m.Number, m.Name, sum, m.Checksum)
			}
			continue
		}
		statements, err := c.render(n, m.texts...)
		if err != nil {
			return steps, fmt.Errorf("migration %04d_%s: %w", m.Number, m.Name, err)
		}
		steps = append(steps, Step{Node: n.addr, Migration: m, Statements: statements})
		if dryRun {
			continue
		}
		for _, s := range statements {
			if err := n.Exec(ctx, s); err != nil {
				return steps, fmt.Errorf("migration %04d_%s: %s: %w", m.Number, m.Name, firstLine(s), err)
			}
		}
		if err := n.Exec(ctx, "INSERT INTO "+c.table("migrations")+" (number, name, checksum) VALUES (?, ?, ?)", uint32(m.Number), m.Name, m.Checksum); err != nil {
			return steps, fmt.Errorf("record migration %04d_%s: %w", m.Number, m.Name, err)
		}
	}
	if dryRun {
		return steps, nil
	}
	return steps, c.migrateAnalysts(ctx, n)
}

// recorded are the checksums of the migrations that a node has, by number.
func (c *Conn) recorded(ctx context.Context, n *node) (map[int]string, error) {
	var exists uint64
	if err := n.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = 'migrations'", c.cfg.Database).Scan(&exists); err != nil {
		return nil, fmt.Errorf("look for the table migrations: %w", err)
	}
	sums := map[int]string{}
	if exists == 0 {
		return sums, nil
	}
	rows, err := n.Query(ctx, "SELECT number, checksum FROM "+c.table("migrations"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var number uint32
		var sum string
		if err := rows.Scan(&number, &sum); err != nil {
			return nil, err
		}
		sums[int(number)] = sum
	}
	return sums, rows.Err()
}

// Migrated is nil when this binary's migrations are on every node that can be reached. One that is away holds nobody up here.
func (c *Conn) Migrated(ctx context.Context) error {
	all, err := Migrations()
	if err != nil {
		return err
	}
	return c.eachNode(func(n *node) error {
		steps, err := c.migrateNode(ctx, n, all, true)
		if err == nil && len(steps) > 0 {
			err = fmt.Errorf("it lacks migration %04d_%s: run counterfoil migrate first", steps[0].Migration.Number, steps[0].Migration.Name)
		}
		return err
	})
}

// render makes the statements of the last of these files for one node.
func (c *Conn) render(n *node, texts ...string) ([]string, error) {
	return c.renderAs(n, c.table, texts...)
}

// renderAs makes the statements of the last of these files for one node, in which tables and views that are read have the full names that read
// gives them.
func (c *Conn) renderAs(n *node, read func(name string) string, texts ...string) ([]string, error) {
	t, err := c.template(n, read, texts...)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, err
	}
	return statements(b.String()), nil
}

// template is the last of these files of statements for one node, with the queries that it and those before it define. Of those of one name
// the last one counts.
func (c *Conn) template(n *node, read func(name string) string, texts ...string) (*template.Template, error) {
	cluster := c.cfg.Cluster != ""
	replicated := func(engine, table, args string) string {
		if !cluster || len(c.shards[n.shard]) < 2 {
			return "ENGINE = " + engine + "(" + args + ")"
		}
		if args != "" {
			args = ", " + args
		}
		return fmt.Sprintf("ENGINE = Replicated%s('/counterfoil/%s/%s/%d', '%s'%s)", engine, c.cfg.Database, c.cfg.localName(table), n.shard+1, n.addr, args)
	}
	t := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"database":  func() string { return "`" + c.cfg.Database + "`" },
		"table":     read,
		"local":     c.local,
		"mergeTree": func(table string) string { return replicated("MergeTree", table, "") },
		"replacing": func(table, args string) string { return replicated("ReplacingMergeTree", table, args) },
		// One server: an acknowledged row must be on the disk. A cluster keeps it on a quorum of replicas instead (insert_quorum).
		"settings": func() string {
			if cluster && len(c.shards[n.shard]) > 1 {
				return ""
			}
			// A wide part is a file or more for each column, and each would be synced: some 700 for customer events, which took seconds. Up
			// to 256 MiB, more than a flush of the default size, a part is one file.
			return "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456"
		},
		"distributed": func(table string) string {
			if !cluster {
				return ""
			}
			return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS %s ENGINE = Distributed('%s', '%s', '%s');",
				c.table(table), c.local(table), c.cfg.Cluster, c.cfg.Database, c.cfg.localName(table))
		},
		// Before JOIN and IN: the right side is made once, not on every shard of its own rows.
		"global": func() string {
			if cluster {
				return "GLOBAL"
			}
			return ""
		},
	})
	for _, text := range texts {
		if _, err := t.Parse(text); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// query is a query that a migration defines by name, the last to do so, with what is put in.
func (c *Conn) query(name, in string) (string, error) {
	all, err := Migrations()
	if err != nil {
		return "", err
	}
	t, err := c.template(&c.nodes[0], c.table, all[len(all)-1].texts...)
	if err != nil {
		return "", err
	}
	if t = t.Lookup(name); t == nil {
		return "", fmt.Errorf("no migration defines %q", name)
	}
	var b strings.Builder
	err = t.Execute(&b, in)
	return b.String(), err
}

// statements splits a text at semicolons that end a line, and drops comments of whole lines.
func statements(text string) []string {
	var all []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); trimmed == "" || strings.HasPrefix(trimmed, "--") {
			continue
		} else if body, ended := strings.CutSuffix(trimmed, ";"); ended {
			b.WriteString(strings.TrimSuffix(strings.TrimRight(line, " \t\r\n"), ";"))
			if body != "" || b.Len() > 0 {
				all = append(all, b.String())
			}
			b.Reset()
			continue
		}
		b.WriteString(line)
	}
	if b.Len() > 0 {
		all = append(all, b.String())
	}
	return all
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
