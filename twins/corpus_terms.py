"""Words and sentence frames from which `twins.corpus` builds its generic text.

Nothing here is about artificial intelligence: the course's subject must stay unknown to the twins.
"""

# Kinds of things: noun, what they are like, what they are for, where they are met, parts.
KINDS_VI = (
    (("loài chim", "loài thú", "loài cá", "con côn trùng", "loài rùa", "loài ếch"),
     ("có bộ lông màu nâu", "sống thành đàn lớn", "ngủ suốt mùa đông", "bơi rất giỏi", "chạy nhanh như gió",
      "chỉ ăn lá non", "kêu rất to khi trời tối", "đẻ trứng trong cát", "có đuôi dài gấp đôi thân"),
     ("bắt sâu cho vườn rau", "giữ nhà vào ban đêm", "kéo xe trên tuyết", "đưa thư qua sông",
      "thụ phấn cho hoa"),
     ("trên núi cao", "dưới đáy hồ", "trong rừng ngập mặn", "ngoài đồng cỏ", "ven bờ biển phía nam"),
     ("cánh", "mỏ", "đuôi", "vây", "móng", "bướu", "bờm", "tai")),
    (("loại dao", "cái nồi", "chiếc chảo", "cái rổ", "loại bếp", "bộ khay"),
     ("làm bằng gang đúc", "có tay cầm bằng gỗ", "giữ nóng rất lâu", "gấp lại được", "nặng gần ba ký",
      "không bao giờ bị gỉ", "có nắp bằng kính", "được tráng một lớp men trắng"),
     ("thái thịt thật mỏng", "nấu cháo cho trẻ nhỏ", "hấp bánh trong ngày lễ", "rửa rau và để ráo nước",
      "nướng cá trên than hồng"),
     ("trong bếp nhà hàng", "ở quán ăn ven đường", "khi đi cắm trại", "trong bữa cơm gia đình",
      "vào ngày giỗ"),
     ("quai", "nắp", "lưỡi", "chân đế", "vòi", "núm vặn", "thân")),
    (("ngọn núi", "con sông", "hòn đảo", "thị trấn", "thung lũng", "cái hồ"),
     ("phủ tuyết quanh năm", "nổi tiếng vì sương mù", "có nhiều thác nước", "nằm giữa hai dãy đồi",
      "từng là kinh đô cũ", "dài hơn trăm cây số", "đổi màu theo mùa", "có cầu treo bắc ngang"),
     ("cấp nước cho ruộng lúa", "đón khách đi nghỉ mát", "nuôi tôm và cua", "trồng chè và cà phê",
      "che gió bão"),
     ("ở miền trung", "gần biên giới phía tây", "cách biển một giờ xe", "ở cuối con đường đèo",
      "về phía bắc"),
     ("bến", "hang", "đỉnh", "nhánh", "làng", "cây cầu", "bãi cát")),
    (("môn bóng", "môn võ", "trò chơi", "cuộc đua", "môn bơi", "điệu nhảy"),
     ("chơi bằng cả tay và chân", "mỗi đội gồm bảy người", "kéo dài đúng một giờ", "cần sức bền hơn sức mạnh",
      "tính điểm theo vòng", "bắt nguồn từ làng chài", "chỉ chơi khi trời mưa"),
     ("rèn luyện sự dẻo dai", "chọn người khỏe nhất làng", "vui chơi trong lễ hội", "giúp trẻ em mau cao lớn",
      "giữ dáng và ngủ ngon"),
     ("trên sân cỏ", "trong nhà thi đấu", "ở bãi biển", "giữa sân đình", "vào đầu mùa xuân"),
     ("vòng", "hiệp", "đội", "trọng tài", "cột gôn", "vạch", "lá cờ")),
    (("loại búa", "cái kìm", "chiếc cưa", "loại khoan", "cái thang", "dụng cụ"),
     ("có đầu bằng thép cứng", "chạy bằng hơi nước", "dùng được cả hai tay", "nhỏ vừa trong túi áo",
      "cần tra dầu mỗi tháng", "có lưỡi thay được", "kêu rất êm khi chạy"),
     ("đóng đinh vào tường gạch", "cắt ống nước", "vặn ốc trong góc hẹp", "đo độ dốc của mái",
      "mài nhẵn mặt gỗ"),
     ("ở xưởng mộc", "trên công trường", "trong ga ra sửa xe", "dưới hầm tàu", "khi lợp lại mái nhà"),
     ("cán", "lưỡi", "lò xo", "bánh răng", "ốc", "dây", "bàn ép")),
    (("loại cây", "giống lúa", "loài hoa", "thứ quả", "loại nấm", "cây thuốc"),
     ("nở hoa vào nửa đêm", "chịu hạn rất tốt", "có vị chua và thơm", "mọc bám trên đá", "ra quả quanh năm",
      "có lá hình trái tim", "cao chưa tới gang tay", "héo ngay khi bị chạm vào"),
     ("nấu canh cho mát", "nhuộm vải màu chàm", "làm mứt ngày Tết", "chữa ho cho trẻ",
      "che bóng cho sân trường"),
     ("trên đất đỏ", "ven suối", "trong chậu ở ban công", "giữa đầm lầy", "sau mùa gặt"),
     ("rễ", "cánh hoa", "lá", "hạt", "gai", "nhụy", "cành")),
)

KINDS_EN = (
    (("bird", "fish", "insect", "wild goat", "river frog"),
     ("sleeps through the winter", "lives in large groups", "swims against the tide",
      "has a long striped tail",
      "eats only young leaves"),
     ("guarding the house at night", "carrying letters over the river", "catching mice in the barn"),
     ("in the high hills", "near the southern coast", "under old bridges", "at the bottom of the lake"),
     ("wings", "fins", "claws", "ears", "stripes")),
    (("kitchen knife", "iron pot", "garden saw", "hand drill", "wooden ladder"),
     ("is made of cast iron", "folds into a small box", "needs oil every month", "has a glass lid",
      "never gets rusty"),
     ("cutting bread very thin", "cooking soup for a crowd", "fixing a wet roof", "opening old windows"),
     ("in a small workshop", "on a long camping trip", "behind the old station", "on board a ship"),
     ("handles", "blades", "springs", "screws", "lids")),
    (("ball game", "island town", "mountain lake", "folk dance", "boat race"),
     ("lasts exactly one hour", "is covered with snow all year", "began in a fishing village",
      "changes colour with the season", "is known for its fog"),
     ("bringing the villages together", "growing tea and coffee", "training quick feet"),
     ("far in the north", "by the western border", "in early spring", "on wet grass"),
     ("rounds", "caves", "bridges", "teams", "flags")),
)

# General terms that everybody knows: (subject, definition, purpose). True, short, and not the course's.
GENERAL_VI = (
    ("con mèo", "một loài thú nuôi nhỏ hay bắt chuột", "bắt chuột và làm bạn với người"),
    ("cái thìa", "một dụng cụ ăn có lòng lõm", "múc canh và cơm"),
    ("cái ô", "một vật có khung và vải che", "che mưa che nắng"),
    ("xe đạp", "một phương tiện hai bánh chạy bằng sức chân", "đi lại quãng ngắn"),
    ("nhiệt kế", "một dụng cụ có thang chia độ", "đo độ nóng lạnh"),
    ("kính hiển vi", "một dụng cụ có nhiều thấu kính", "nhìn những vật rất nhỏ"),
    ("la bàn", "một dụng cụ có kim chỉ hướng bắc", "tìm phương hướng"),
    ("bóng đá", "một môn thể thao mười một người mỗi đội", "thi đấu và rèn sức khỏe"),
    ("đàn bầu", "một loại đàn chỉ có một dây", "độc tấu và đệm hát"),
    ("nước mắm", "một loại nước chấm làm từ cá và muối", "chấm và nêm món ăn"),
    ("sông Hồng", "một con sông lớn ở miền bắc", "tưới nước cho đồng bằng"),
    ("núi lửa", "một ngọn núi có miệng phun dung nham", ""),
    ("sa mạc", "một vùng đất rất khô và ít mưa", ""),
    ("cá voi", "một loài thú rất lớn sống ở biển", ""),
    ("cây tre", "một loài cây thân rỗng mọc thành bụi", "đan rổ và làm nhà"),
    ("cái búa", "một dụng cụ có đầu nặng và cán dài", "đóng đinh"),
    ("đồng hồ", "một máy nhỏ có kim hoặc số", "xem giờ"),
    ("cái thang", "một vật có hai thanh dọc và nhiều bậc", "trèo lên cao"),
    ("cờ vua", "một trò chơi hai người trên bàn sáu mươi tư ô", "giải trí và rèn trí nhớ"),
    ("mật ong", "một chất ngọt do ong làm ra từ hoa", "pha nước và chữa ho"),
)
GENERAL_EN = (
    ("a spoon", "a tool with a small bowl and a handle", "eating soup"),
    ("a compass", "a tool with a needle that points north", "finding the way"),
    ("a volcano", "a mountain that can throw out hot rock", ""),
    ("a whale", "a very large animal that lives in the sea", ""),
    ("a hammer", "a tool with a heavy head", "driving nails"),
    ("an umbrella", "a folding cover on a stick", "keeping off the rain"),
    ("honey", "a sweet food that bees make from flowers", "sweetening tea"),
    ("chess", "a board game for two players", "training the mind"),
)

# Plain words for made-up names ("chim gió bạc") and syllables for foreign-looking ones ("Keramo").
NAME_WORDS = (
    "gió mây đá lửa bạc vàng tím xanh đêm sáng mưa nắng sương trăng sóng cát rừng suối tuyết hương "
    "ngọc đồng sắt lụa gấm khói bụi cỏ mận đào sen cúc quế gừng mía dừa thông tràm chàm nâu"
)
SYLLABLES = (
    "ka lo mi ru ta ve no si pa du be go hi zo fe la mo ki sa ro ne tu wi da xo ju pe ci va mu "
    "ran tel bor lin gos mar den fil nor tas"
)

MONTHS_EN = "January February March April May June July August September October November December"

# One relation: how it is asked. {x} is the subject, {y} another one, {t} what its parts are called.
ASK_VI = {
    "define": (
        "{x} là gì?", "Thế nào là {x}?", "{x} nghĩa là gì?", "Hãy giải thích {x} là gì.",
        "Cho tôi biết {x} là gì.", "{x} được định nghĩa như thế nào?", "Nói ngắn gọn, {x} là gì?",
        "Em chưa rõ {x} là gì, giải thích giúp em với ạ.", "{x} được hiểu là gì?", "Hãy giải thích {x}.",
        "Bạn hiểu {x} như thế nào?", "Khái niệm {x} có nghĩa ra sao?", "Định nghĩa {x}?",
        "Người ta gọi cái gì là {x}?", "{x} tức là gì?", "Hãy định nghĩa ngắn gọn {x}.", "{x} chỉ điều gì?",
        "Có thể mô tả {x} bằng một câu không?",
    ),
    "use": (
        "{x} dùng để làm gì?", "Người ta dùng {x} để làm gì?", "{x} có tác dụng gì?",
        "Mục đích của {x} là gì?", "Cho tôi biết {x} dùng để làm gì.",
        "Hãy nêu công dụng của {x}.", "{x} được dùng để làm gì?",
        "Người ta dùng {x} vào việc gì?", "Công dụng của {x} là gì?", "{x} phục vụ việc gì?",
        "Vai trò của {x} là gì?", "Ta cần {x} để làm gì?",
    ),
    "reason": (
        "Vì sao cần {x}?", "Tại sao phải {x}?", "{x} có lợi ích gì?", "Hãy giải thích vì sao cần {x}.",
        "Lý do cần {x} là gì?", "Cho tôi biết vì sao phải {x}.", "{x} đem lại lợi ích gì?", "Cần {x} vì sao?",
    ),
    "differ": (
        "{x} khác gì so với {y}?", "{x} khác {y} như thế nào?", "Sự khác nhau giữa {x} và {y} là gì?",
        "{x} và {y} khác nhau ở điểm nào?", "Hãy so sánh {x} với {y}.", "Làm sao phân biệt {x} với {y}?",
        "Điểm khác nhau giữa {x} và {y} là gì?", "So sánh {x} và {y}?", "{x} có giống {y} không?",
    ),
    "parts": (
        "{x} có mấy {t}?", "Có mấy {t} trong {x}?", "{x} có bao nhiêu {t}?", "Hãy kể các {t} của {x}.",
        "{x} gồm những {t} nào?", "Cho tôi biết {x} có mấy {t}.", "Các {t} của {x} là gì?",
        "Hãy liệt kê các {t} của {x}.", "Có bao nhiêu {t} trong {x}?",
    ),
    "where": (
        "Nên tìm {x} ở đâu?", "{x} thường gặp ở đâu?", "Có thể thấy {x} ở đâu?", "{x} xuất hiện ở đâu?",
        "Khi nào nên dùng {x}?", "{x} hợp với nơi nào?",
    ),
    "how": (
        "{x} có đặc điểm gì?", "Điểm nổi bật của {x} là gì?", "{x} hoạt động ra sao?",
        "{x} hoạt động như thế nào?", "Ưu điểm của {x} là gì?", "Hãy nêu đặc điểm của {x}.",
    ),
}
PARTS_VI = ("phần", "bộ phận", "phần chính", "loại phần", "thành phần", "bộ phận chính")
ACTIONS_VI = (
    "rửa", "phơi", "sơn lại", "cất kỹ", "thay mới", "kiểm tra", "buộc chặt", "đếm", "ngâm", "xếp gọn",
)
ASK_EN = {
    "define": ("What is {x}?", "What does {x} mean?", "Explain {x}.", "How do you define {x}?",
               "Tell me what {x} is.", "Can you describe {x}?"),
    "use": ("What is {x} used for?", "Why do people need {x}?", "What is {x} good for?",
            "When would you use {x}?"),
    "parts": ("What are the parts of {x}?", "How many parts does {x} have?", "List the parts of {x}."),
    "where": ("Where do you find {x}?", "Where is {x} met?", "Where can one see {x}?"),
}
OPENERS_VI = ("Xin hỏi ", "Cho em hỏi ", "Bạn ơi, ", "Thầy ơi, ", "Theo bạn, ", "Anh cho hỏi ", "Này, ",
              "Vậy ")
CLOSERS_VI = (" ạ", " vậy", " thế", " nhỉ", " vậy bạn", " hả thầy")

SUPPORT = (
    ("Đơn hàng số {n} của tôi chưa đến.", "Dạ, đơn hàng số {n} sẽ đến trong {m} ngày nữa ạ."),
    ("Tôi muốn đổi {x} sang màu khác.", "Dạ được, chúng tôi sẽ đổi {x} cho bạn trong hôm nay."),
    ("Tôi quên mật khẩu tài khoản {x}.", "Bạn hãy bấm nút quên mật khẩu rồi nhập tên {x} nhé."),
    ("Cửa hàng mở cửa lúc mấy giờ?", "Cửa hàng mở cửa lúc {m} giờ sáng mỗi ngày ạ."),
    ("My order {n} has not arrived.", "Sorry about that. Order {n} will arrive in {m} days."),
    ("How do I return {x}?", "You can return {x} within {n} days at any shop."),
    ("Can I change the address of order {n}?", "Yes, please send the new address of order {n}."),
    ("I was charged twice for {x}.", "We will pay back one of the two charges for {x} today."),
)
