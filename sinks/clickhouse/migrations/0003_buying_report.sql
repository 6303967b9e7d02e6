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
-- Reports.BuyingReport runs this query itself, without the view, for a view with parameters is planned more than once. For the same reason
-- tables are read and not the views above them.
CREATE VIEW IF NOT EXISTS {{table "buying_report"}} AS
SELECT if(p.id = '', b.spelled, p.id) AS product, ifNull(p.number, 0) AS number, if(p.code = '', product, p.code) AS code,
    ifNull(p.description, '') AS description, c.part_number AS part_number, p.barcodes[1] AS barcode, p.barcodes[2] AS epos_barcode,
    b.net AS quantity, b.last_invoiced AS last_invoiced, if(s.available_now > 0, NULL, s.next_available_on) AS next_available
FROM (
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
) AS b
{{global}} LEFT JOIN (
    SELECT id, id_key, number, code, description, barcodes FROM {{table "products_state"}} FINAL
    WHERE tenant = {tenant:String}
    ORDER BY version DESC
    LIMIT 1 BY id_key
) AS p ON p.id_key = b.product_key
{{global}} LEFT JOIN (
    SELECT product_key, part_number FROM {{table "customer_parts_state"}} FINAL
    WHERE tenant = {tenant:String} AND customer = {customer:Int64}
    ORDER BY version DESC
    LIMIT 1 BY product_key
) AS c ON c.product_key = b.product_key
{{global}} LEFT JOIN (
    SELECT product_key, available_now, next_available_on FROM {{table "stock_state"}} FINAL
    WHERE tenant = {tenant:String}
    ORDER BY version DESC
    LIMIT 1 BY product_key
) AS s ON s.product_key = b.product_key
WHERE {weeks_until_available:Int32} = 0 OR s.available_now > 0
    OR s.next_available_on <= addWeeks({today:Date32}, {weeks_until_available:Int32})
ORDER BY code, product;
