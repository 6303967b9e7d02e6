package embedded

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Analyst is a ClickHouse user that reads the rows of one tenant and nothing else, and writes nothing.
//
// The embedded engine has no place to keep users, so CREATE USER and CREATE ROW POLICY fail there; it takes users
// and row filters from its configuration file.
//
// An analyst reads views only, those of a database of its own, and has no right to any table. The views must run
// with the rights of a second user, the reader (DEFINER = reader SQL SECURITY DEFINER), as whom nobody can log in.
// The row filters are the reader's, on the tables: ClickHouse applies the filter of a table while it reads, before
// any other expression of the query. Two plainer ways show other tenants' rows:
//
//   - an analyst with SELECT on the tables and row filters on them reads samples of all rows' primary keys with
//     mergeTreeIndex, which knows no filters and wants no more than SELECT on the columns;
//   - a row filter on a view is one condition among those of the query and is moved below with them, so that
//     WHERE throwIf(…) is computed for rows that the filter would drop, and tells by its error what is in them.
//
// What remains is how many rows and granules a query reads, which EXPLAIN ESTIMATE says.
type Analyst struct {
	Name           string   // letters, digits, underscores; begins with a letter
	PasswordSHA256 string   // 64 hex digits
	Tenant         string   // value of the column `tenant`
	Reader         string   // name of the second user and of the database of the views, which may be read, all of them
	Database       string   // of Tables and Views
	Tables         []string // what the reader may read, rows of the tenant only; each has a column `tenant`
	Views          []string // what the reader may read besides; plain views over Tables
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`) // also a name of an XML element
	sha256Hex  = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

func (a Analyst) check() error {
	for what, names := range map[string][]string{"name": {a.Name}, "reader": {a.Reader}, "database": {a.Database}, "table": a.Tables, "view": a.Views} {
		for _, n := range names {
			if !identifier.MatchString(n) {
				return fmt.Errorf("analyst %q: %s %q is not a plain identifier", a.Name, what, n)
			}
		}
	}
	switch {
	case !sha256Hex.MatchString(a.PasswordSHA256):
		return fmt.Errorf("analyst %q: the password hash is not SHA-256 in hex", a.Name)
	case a.Tenant == "":
		return fmt.Errorf("analyst %q: no tenant", a.Name)
	}
	return nil
}

// usersXML is ClickHouse's users.xml with these analysts.
func usersXML(analysts []Analyst) (string, error) {
	var out bytes.Buffer
	if err := WriteUsers(&out, analysts); err != nil {
		return "", err
	}
	return out.String(), nil
}

// WriteUsers writes a users.xml for ClickHouse: the user `default` without a password, admitted from this machine
// only, who may do everything, and the analysts. It fails for an analyst whose members break the rules above, and
// for two of the same name.
func WriteUsers(w io.Writer, analysts []Analyst) error {
	root := node("clickhouse",
		node("profiles",
			// Inserts must be in their table when they are answered.
			node("default", text("async_insert", "0")),
			node("analyst", text("readonly", "2")), // reads, and may change settings of its own queries
		),
		node("quotas", node("default")),
		node("users", node("default",
			text("password", ""),
			node("networks", text("ip", "127.0.0.1"), text("ip", "::1")),
			text("profile", "default"), text("quota", "default"),
			text("access_management", "1"), text("named_collection_control", "1"),
		)),
	)
	users := &root.Nodes[2]
	seen := map[string]bool{"default": true}
	for _, a := range analysts {
		if err := a.check(); err != nil {
			return err
		}
		for _, name := range []string{a.Name, a.Reader} {
			if seen[name] {
				return fmt.Errorf("analyst %q: user %q is there twice", a.Name, name)
			}
			seen[name] = true
		}
		users.Nodes = append(users.Nodes, analystNode(a), readerNode(a))
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func analystNode(a Analyst) element {
	return node(a.Name,
		text("password_sha256_hex", a.PasswordSHA256),
		node("networks", text("ip", "::/0")),
		text("profile", "analyst"), text("quota", "default"),
		text("default_database", a.Reader),
		node("grants", text("query", fmt.Sprintf("GRANT SELECT ON %s.*", a.Reader))),
	)
}

func readerNode(a Analyst) element {
	quoted := "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(a.Tenant) + "'"
	filters, grants := node(a.Database), node("grants")
	for _, t := range a.Tables {
		filters.Nodes = append(filters.Nodes, node(t, text("filter", "tenant = "+quoted)))
	}
	for _, name := range slices.Concat(a.Tables, a.Views) {
		grants.Nodes = append(grants.Nodes, text("query", fmt.Sprintf("GRANT SELECT ON %s.%s", a.Database, name)))
	}
	return node(a.Reader,
		text("password", ""), // for nobody: it is admitted from no network
		node("networks"),
		text("profile", "analyst"), text("quota", "default"),
		node("databases", filters),
		grants,
	)
}

// element is a piece of XML whose name is only known at run time.
type element struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
	Nodes   []element
}

func node(name string, nodes ...element) element {
	return element{XMLName: xml.Name{Local: name}, Nodes: nodes}
}

func text(name, value string) element {
	return element{XMLName: xml.Name{Local: name}, Text: value}
}
