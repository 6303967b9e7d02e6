package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// Files of the data folder of `counterfoil up`.
const (
	analystsFile     = "analysts.json"
	demoPasswordFile = "demo-analyst-password"
	demoAnalyst      = "demo_analyst"
)

func analystsCommand() *command {
	var tenant, name, dir string
	return &command{
		name:    "analysts",
		args:    "create --tenant TENANT --name NAME [--data FOLDER]",
		summary: "make ClickHouse users that read the rows of one tenant",
		help: `An analyst is a ClickHouse user who reads the rows of one tenant and writes nothing. It has a database of its own, which is its default, with a
view for every table and view that analysts read, of the same name. The password is shown once. Creating one that exists gives it a new password.

On a server (CLICKHOUSE_ADDR) the user and all that belongs to it are made at once, on every node; CLICKHOUSE_USER must be allowed to, and migrate,
which makes the views anew for each version, is to be run as the same user.
The embedded engine of ` + "`counterfoil up`" + ` takes its users from a file: --data names its data folder, and the next start knows the user.

Examples:
  counterfoil analysts create --tenant acme --name acme_reports
  counterfoil analysts create --tenant acme --name acme_reports --data .counterfoil`,
		flags: func(f *flag.FlagSet) {
			f.StringVar(&tenant, "tenant", "", "the tenant whose rows the analyst reads")
			f.StringVar(&name, "name", "", "name of the user: letters, digits and underscores, a letter first")
			f.StringVar(&dir, "data", "", "data `folder` of counterfoil up, for its embedded ClickHouse")
		},
		run: func(ctx context.Context, app *app, args []string) error {
			switch {
			case len(args) != 1 || args[0] != "create":
				return badUsage("say what to do: create")
			case name == "":
				return badUsage("--name is missing")
			}
			if err := checkTenant(tenant); err != nil {
				return err
			}
			cfg, err := loadConfig(app.environ)
			if err != nil {
				return err
			}
			if err := checkAnalystName(cfg.ClickHouse.Database, name); err != nil {
				return err
			}
			password := rand.Text()
			if dir != "" {
				err = addAnalyst(dir, analyst{Name: name, PasswordSHA256: sha256Hex(password), Tenant: tenant})
			} else {
				err = createAnalyst(ctx, cfg.ClickHouse, name, sha256Hex(password), tenant)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(app.stdout, password)
			fmt.Fprintf(app.stderr, "The password of %s is shown once, above.\n", name)
			return nil
		},
	}
}

var analystName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

// checkAnalystName refuses what ClickHouse would not start with, or what is somebody else's.
func checkAnalystName(database, name string) error {
	reserved := clickhouse.AnalystDatabase(database, "")
	switch {
	case !analystName.MatchString(name):
		return badUsage("--name is %q: use letters, digits and underscores, a letter first", name)
	case name == "default":
		return badUsage("--name is %q: that is ClickHouse's own user, who may do everything; choose another name", name)
	case strings.HasPrefix(name, reserved):
		return badUsage("--name is %q: names that begin with %s belong to us", name, reserved)
	}
	return nil
}

func createAnalyst(ctx context.Context, cfg clickhouse.Config, name, hash, tenant string) error {
	conn, err := clickhouse.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.CreateAnalyst(ctx, name, hash, tenant)
	if errors.Is(err, clickhouse.ErrUsersInConfiguration) {
		return fmt.Errorf("%w: for the embedded one name the data folder of counterfoil up with --data and start it again", err)
	}
	return err
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// analyst is an entry of the data folder's list.
type analyst struct {
	Name           string `json:"name"`
	PasswordSHA256 string `json:"password_sha256"`
	Tenant         string `json:"tenant"`
}

// readAnalysts reads the data folder's list, which may be absent.
func readAnalysts(dir string) ([]analyst, error) {
	text, err := os.ReadFile(filepath.Join(dir, analystsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the analysts: %w", err)
	}
	var all []analyst
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s is not a list of analysts: %w", filepath.Join(dir, analystsFile), err)
	}
	return all, nil
}

// addAnalyst puts a into the data folder's list, in place of one of the same name.
func addAnalyst(dir string, a analyst) error {
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("--data must be the data folder of counterfoil up: %w", err)
	}
	all, err := readAnalysts(dir)
	if err != nil {
		return err
	}
	all = append(slices.DeleteFunc(all, func(b analyst) bool { return b.Name == a.Name }), a)
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return keepFile(filepath.Join(dir, analystsFile), text)
}

// keepFile writes beside the place and moves it there, so that a crash leaves the whole file or the old one. Only its owner may read it.
func keepFile(path string, text []byte) error {
	err := os.WriteFile(path+".new", text, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keep %s in the data folder: %w", filepath.Base(path), err)
	}
	return nil
}

// embeddedAnalysts are the users of the embedded ClickHouse.
func embeddedAnalysts(dir, database string) ([]embedded.Analyst, error) {
	all, err := readAnalysts(dir)
	var users []embedded.Analyst
	for _, a := range all {
		users = append(users, embedded.Analyst{
			Name: a.Name, PasswordSHA256: a.PasswordSHA256, Tenant: a.Tenant,
			Reader: clickhouse.AnalystDatabase(database, a.Name), Database: database,
			Tables: clickhouse.AnalystTables(), Views: clickhouse.AnalystViews(),
		})
	}
	return users, err
}

// demoAnalystPassword makes the analyst of the demo tenant on the first call and returns the password that the data folder keeps.
func demoAnalystPassword(dir string) (string, error) {
	path := filepath.Join(dir, demoPasswordFile)
	kept, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(kept)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the demo analyst's password: %w", err)
	}
	password := rand.Text()
	if err := addAnalyst(dir, analyst{Name: demoAnalyst, PasswordSHA256: sha256Hex(password), Tenant: demoTenant}); err != nil {
		return "", err
	}
	return password, keepFile(path, []byte(password+"\n"))
}
