-- What a customer bought.

-- Lines as they lie together by customer. The sink fills these tables from those by id, after each insert there (moves.go): a line that went
-- to another customer, or is gone, has a deleted row where it was, with the version that took it away.
CREATE TABLE IF NOT EXISTS {{local "order_lines_by_customer_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `order_number` Nullable(String),
    `customer` Int64,
    `product` String,
    `product_key` String,
    `quantity` Decimal(38, 10),
    `ordered_on` Date32
)
{{replacing "order_lines_by_customer_state" "version, is_deleted"}}
ORDER BY (tenant, customer, id)
{{with settings}}{{.}},{{else}}SETTINGS{{end}} index_granularity = 1024;
{{distributed "order_lines_by_customer_state"}}

CREATE TABLE IF NOT EXISTS {{local "invoice_lines_by_customer_state"}} (
    `tenant` String,
    `is_deleted` UInt8,
    `version` Int64,
    `id` String,
    `invoice_number` Nullable(String),
    `order_number` Nullable(String),
    `customer` Int64,
    `product` String,
    `product_key` String,
    `quantity` Decimal(38, 10),
    `invoiced_on` Date32
)
{{replacing "invoice_lines_by_customer_state" "version, is_deleted"}}
ORDER BY (tenant, customer, id)
{{with settings}}{{.}},{{else}}SETTINGS{{end}} index_granularity = 1024;
{{distributed "invoice_lines_by_customer_state"}}

CREATE VIEW IF NOT EXISTS {{table "order_lines"}} AS
SELECT `tenant`, `version`, `id`, `order_number`, `customer`, `product`, `product_key`, `quantity`, `ordered_on`
FROM {{table "order_lines_by_customer_state"}} FINAL;

CREATE VIEW IF NOT EXISTS {{table "invoice_lines"}} AS
SELECT `tenant`, `version`, `id`, `invoice_number`, `order_number`, `customer`, `product`, `product_key`, `quantity`, `invoiced_on`
FROM {{table "invoice_lines_by_customer_state"}} FINAL;

-- What a customer bought in the months back from today, net of what came back, by product; products with nothing left are not in it.
--
--   tenant, customer       own id of the customer
--   based_on               'O' orders, 'I' invoices
--   months_back            the window begins on the same day so many months ago, or on the last of a shorter month, and ends today; both days
--                          belong to it
--   weeks_until_available  leaves out what is not in stock and not back within so many weeks of today; 0 leaves out nothing
--   today                  a day in UTC, as in today = today()
--
-- A product is one whatever the case in which its id is spelled. Of several records of it, of the stock and of a part number the last one
-- counts. A product that products does not have goes by its own id as code, spelled as in the last of these lines.
--
-- A product is in stock when something is available now. One without a stock record is not, and nobody knows when it will be.
-- last_invoiced is the day of its last invoice line up to today, whatever the window and based_on are; credits (negative quantities) are no
-- invoices.
--
-- Reports.BuyingReport runs the four queries by themselves and puts their answers together in Go: ClickHouse takes longer to plan the whole than
-- to run it. The last three are then asked for what was bought only, by a condition on the product that is put in. Tables are read and not the
-- views above them, for these are planned more than once.
{{define "bought"}}
    SELECT product_key, sum(bought) AS net, max(invoiced) AS last_invoiced, argMax(product, version) AS spelled
    FROM (
        SELECT product_key, product, version, quantity AS bought, CAST(NULL AS Nullable(Date32)) AS invoiced
        FROM {{table "order_lines_by_customer_state"}} FINAL
        WHERE tenant = {tenant:String} AND customer = {customer:Int64} AND {based_on:String} = 'O'
            AND ordered_on BETWEEN subtractMonths({today:Date32}, {months_back:Int32}) AND {today:Date32}
        UNION ALL
        SELECT product_key, product, version,
            if({based_on:String} = 'I' AND invoiced_on >= subtractMonths({today:Date32}, {months_back:Int32}), quantity, 0) AS bought,
            if(quantity > 0, invoiced_on, NULL) AS invoiced
        FROM {{table "invoice_lines_by_customer_state"}} FINAL
        WHERE tenant = {tenant:String} AND customer = {customer:Int64} AND invoiced_on <= {today:Date32}
    )
    GROUP BY product_key
    HAVING net > 0
{{end}}
{{define "product"}}
    SELECT id_key AS product_key, version, id, ifNull(number, 0) AS number, code, ifNull(description, '') AS description,
        barcodes[1] AS barcode, barcodes[2] AS epos_barcode
    FROM {{table "products_state"}} FINAL
    WHERE tenant = {tenant:String}{{with .}} AND id_key {{.}}{{end}}
{{end}}
{{define "part_number"}}
    SELECT product_key, version, part_number
    FROM {{table "customer_parts_state"}} FINAL
    WHERE tenant = {tenant:String} AND customer = {customer:Int64}{{with .}} AND product_key {{.}}{{end}}
{{end}}
{{define "stock"}}
    SELECT product_key, version, available_now > 0 AS available, if(available, NULL, next_available_on) AS next_available
    FROM {{table "stock_state"}} FINAL
    WHERE tenant = {tenant:String}{{with .}} AND product_key {{.}}{{end}}
{{end}}
CREATE VIEW IF NOT EXISTS {{table "buying_report"}} AS
SELECT if(p.id = '', b.spelled, p.id) AS product, p.number AS number, if(p.code = '', product, p.code) AS code, p.description AS description,
    c.part_number AS part_number, p.barcode AS barcode, p.epos_barcode AS epos_barcode, b.net AS quantity, b.last_invoiced AS last_invoiced,
    s.next_available AS next_available
FROM ({{template "bought"}}) AS b
{{global}} LEFT JOIN ({{template "product"}} ORDER BY version DESC LIMIT 1 BY product_key) AS p ON p.product_key = b.product_key
{{global}} LEFT JOIN ({{template "part_number"}} ORDER BY version DESC LIMIT 1 BY product_key) AS c ON c.product_key = b.product_key
{{global}} LEFT JOIN ({{template "stock"}} ORDER BY version DESC LIMIT 1 BY product_key) AS s ON s.product_key = b.product_key
WHERE {weeks_until_available:Int32} = 0 OR s.available OR s.next_available <= addWeeks({today:Date32}, {weeks_until_available:Int32})
ORDER BY code, product;
